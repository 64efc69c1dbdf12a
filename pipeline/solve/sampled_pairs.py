"""Some pairs of a job, made in this process without files: a sample of what the job would write.

A semi-discrete coupling of many data is too dear for a sample. What it tends to is seen from couplings of random parts
of the data, each with potentials of its own: with growing parts they come near to it, as blocks of growing n do.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from flowpairs.pipeline.base.errors import JobError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.conditions import Conditions
from flowpairs.pipeline.blocks.source import weights_of
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.solve.block_solver import BlockSolver
from flowpairs.pipeline.solve.inputs import FeatureSpace, Inputs
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.solve.potentials import all_potentials

Sides = tuple[Float32[np.ndarray, "k D"], Float32[np.ndarray, "k D"]]


def pairs_of_blocks(job: Job, blocks: Sequence[int], each: int, threads: int, device: str) -> Sides:
    """Make the first pairs of some blocks of a job.

    Args:
        job: the job, with its features; nothing is written to its directory.
        blocks: numbers of the blocks.
        each: how many pairs of each block, at most those that it has.
        threads: number of CPU cores that this process may use.
        device: "cpu" or "cuda", where to compute.

    Returns:
        Both sides of the pairs, flattened, block by block.

    Raises:
        JobError: a block or the potentials did not converge, and the config does not accept that.
    """
    potentials = all_potentials(job, threads, device) if job.config.coupling.method == "semidiscrete" else None
    solver, sides = BlockSolver(job, threads, device, potentials), []
    for block in blocks:
        solved = solver.solve(block)
        if not solved.report["converged"] and job.config.coupling.on_unconverged == "fail":
            raise JobError(
                f"coupling.n={job.blocks.n}: a block did not converge in {solved.report['passes']} passes; raise "
                "coupling.max_passes, coupling.tol or the epsilon"
            )
        pairs = solved.pairs[:each]
        x0, x1 = solver.x0_of(pairs), solver.rows.read(pairs.data_ids)
        sides.append((x0.reshape(len(x0), -1), x1.reshape(len(x1), -1)))
    x0, x1 = (np.concatenate(side) for side in zip(*sides, strict=True))
    return x0, x1


def part_of(job: Job, size: int, number: int) -> Job:
    """Build the job over a random part of its data, all of which every block holds.

    Args:
        job: a semi-discrete job, with its features.
        size: number of data of the part, at most those of the job.
        number: which part; parts are disjoint where there are enough data.
    """
    order = noise.permutation(job.config.source.seed, noise.Stream.EPOCH, job.blocks.ids)
    ids = np.sort(np.take(order, np.arange(number * size, (number + 1) * size), mode="wrap"))
    weights = weights_of(job.inputs.target.weights, ids)
    rows = Rows.of(job.inputs.target.rows.read(ids))
    return dataclasses.replace(
        job,
        blocks=dataclasses.replace(job.blocks, ids=size),
        inputs=Inputs(Target(rows, None, 0, "", weights), conditions=Conditions(weights=weights)),
        features=FeatureSpace(job.space.map, Rows.of(job.space.target.take(ids))),
    )
