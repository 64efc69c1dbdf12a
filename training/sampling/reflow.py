"""Reflow (arXiv 2209.03003): pairs of noise and of where a trained flow leads it, as the blocks of a coupling job.

The job is that of any other method (pipeline/couple.py): its blocks, shards, sidecars, actors and resume. This module
opens the run and solves blocks. A block's noise is that of its source rows, as in every store; its samples are computed
in batches that begin with the block, on a CPU each by one thread, and a whole batch also where the job keeps a part of
it. So they depend on the config, the network, the number of the block and the kind of device alone.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.features import project
from flowpairs.pipeline.blocks.imported_pairs import imported_report
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.ot.tiles.partition import SINGLE
from flowpairs.pipeline.solve import draw
from flowpairs.pipeline.solve.block_solver import made_on
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.store.format import pairs_per_record
from flowpairs.pipeline.store.records import Record
from flowpairs.pipeline.store.writer import write_shard
from flowpairs.training.config import OwnConfig, SamplerConfig
from flowpairs.training.run.initial_weights import weights_fingerprint
from flowpairs.training.run.state import read_checkpoint
from flowpairs.training.run.trained import Trained, read_trained
from flowpairs.training.sampling import flow
from flowpairs.training.sampling.sampler import Sampler, batches_of


@dataclass(frozen=True)
class TrainedFlow:
    """The flow of a run, as a job takes it to its actors (`BlockMaker` of pipeline/solve/job.py).

    Attributes:
        trained: the network.
        where: the key that names the run, with its value.
        fingerprint: the hash of what determines the network.
    """

    trained: Trained
    where: str
    fingerprint: str

    @property
    def labelled(self) -> bool:
        """Whether the network is told labels, which its samples then have."""
        return self.trained.config.model.conditional

    def check(self, shape: tuple[int, ...], num_classes: int | None) -> None:
        """Refuse data that the flow did not learn.

        Args:
            shape: the shape of one datum.
            num_classes: the number of classes of the data; None: not known yet.

        Raises:
            InputError: they have another shape, more classes, or no labels where the network is told some.
        """
        own = tuple(self.trained.shape), self.trained.num_classes
        if shape != own[0]:
            raise InputError(
                f"{self.where}: leads to data of shape {list(own[0])}, and those of data.path have {list(shape)}; give "
                "the data that the run learnt"
            )
        if num_classes == 0 and self.labelled:
            raise InputError(
                f"{self.where}: is told labels, which samples get as often as the data have them; give data.label"
            )
        if num_classes is not None and self.labelled and num_classes > own[1]:
            raise InputError(
                f"{self.where}: knows {own[1]} classes, and data.path has {num_classes}; give the data that the run "
                "learnt"
            )

    def solver(self, job: Job, threads: int, device: str) -> "FlowSolver":
        """Build the solver of the job's blocks in this process."""
        return FlowSolver(self.trained, job, threads, device)


def open_flow(config: CoupleConfig, *, trust: bool = False) -> TrainedFlow:
    """Open the run that a config of method reflow names.

    Args:
        config: the coupling job.
        trust: whether a network that is a class of whoever made the run may be imported.

    Raises:
        InputError: there is no such run, its network may not be imported, or its flow cannot make these pairs.
    """
    options = config.coupling
    assert options.run is not None
    trained, where = read_trained(options.run, trust=trust), f"coupling.run={options.run!r}"
    trained.refuse_untrusted()
    if trained.two_sided:
        raise InputError(f"{where}: leads data to data, and reflow starts from noise; give a run that starts from it")
    if options.solver == "jump" and trained.config.objective.kind != "meanflow":
        raise InputError(
            f"coupling.solver=jump: by the average velocity, which objective.kind=meanflow learns, and {where} did "
            "not; give euler"
        )
    if options.guidance != 1:
        flow.check_guidance(f"coupling.guidance={options.guidance:g}", trained.config)
    return TrainedFlow(trained, where, _fingerprint(trained))


def _fingerprint(trained: Trained) -> str:
    """Hash the averaged weights and what else makes the network; of a class of somebody's own, its name."""
    parts = {"model", "objective", "path"}
    given = trained.config.model_dump(mode="json", include=parts, exclude_defaults=True)
    given |= {"shape": list(trained.shape), "classes": trained.num_classes}
    given["weights"] = weights_fingerprint(read_checkpoint(trained.checkpoint)["ema"])
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class MadeBlock:
    """A block that is ready to be written.

    Attributes:
        block: the number of the block.
        report: a row of blocks.parquet.
        x1: the samples that the block's noise is led to, in its order.
        labels: their labels; None if the network takes none.
        partners: for each source row, which of the samples it is paired with.
    """

    block: int
    report: dict[str, Any]
    x1: Float32[np.ndarray, "n *shape"]
    labels: Int64[np.ndarray, " n"] | None
    partners: Int64[np.ndarray, " n"]


class FlowSolver:
    """Computes blocks of a job of method reflow; built once per process.

    Args:
        trained: the network.
        job: the job, with its features.
        threads: the number of CPU cores that this process may use.
        device: "cpu" or "cuda", where to compute.
    """

    def __init__(self, trained: Trained, job: Job, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self.job, self.threads, self.device, self.team = job, threads, device, SINGLE
        options, labels = job.config.coupling, job.inputs.target.labels
        self.options, self.seed, self.shape = options, job.config.source.seed, job.inputs.target.rows.shape
        config = SamplerConfig(
            samples=1,  # which ones are drawn is said at each draw
            seed=self.seed,
            **options.model_dump(include={"rtol", "atol", "guidance", "batch"}),
        )
        classes = None if labels is None else torch.from_numpy(labels.copy())
        self.sampler = Sampler(trained, config, classes, torch.device(device), stream=noise.Stream.NOISE)
        # A network of somebody's own might keep something between calls, so it gets one batch at a time.
        alone = device != "cpu" or isinstance(trained.config.model, OwnConfig)
        self.at_once = 1 if alone else threads

    def solve(self, block: int, ahead: int | None = None) -> MadeBlock:
        """Lead a block's noise to samples and, if the config says so, couple both anew; nothing is made `ahead`."""
        started = time.perf_counter()
        blocks, first = self.job.blocks, self.job.blocks.first_row(block)
        count = blocks.n if self.options.recouple else blocks.pairs_of(block)
        x1, evaluations = self._samples(block, count)
        labels = self.sampler.labels(slice(first, first + count))
        x0 = self.job.space.map.of_noise(self.seed, first, count)
        features = project(self.job.space.map, Rows.of(x1), np.arange(count))
        report, partners = imported_report(x0, features, count) | {"method": "reflow"}, np.arange(count)
        if self.options.recouple:
            recoupled, partners = self._coupled(block, x0, features)
            report = recoupled | {"cost_flow": report["cost_coupled"]}
        report |= {
            "seconds": time.perf_counter() - started,
            "evaluations": evaluations,
            **made_on(self.device),
        }
        classes = None if labels is None else labels.numpy()
        return MadeBlock(block, {"block": block, **report}, x1, classes, partners)

    def write(self, made: MadeBlock) -> dict[str, Any]:
        """Write a block's shards and return its report once they are on disk.

        Nothing is written when a plan did not converge and the config does not accept that.
        """
        payload, first = self.job.config.output.payload, self.job.blocks.first_row(made.block)
        if made.report["converged"] or self.options.on_unconverged == "record":
            for number, rows in self.job.blocks.shards(made.block).items():
                records = self._records(made, rows)
                write_shard(self.job.store, number, made.block, records, first + rows.start, made.report, payload)
        return made.report

    def _samples(self, block: int, count: int) -> tuple[Float32[np.ndarray, "count *shape"], float]:
        """Draw the first `count` samples of a block, and compute the mean number of evaluations of each."""
        first, options, n = self.job.blocks.first_row(block), self.options, self.job.blocks.n
        whole = min(n, -(-count // options.batch) * options.batch)
        x1 = torch.empty((whole, *self.shape))

        def fill(rows: slice) -> int:
            numbers = slice(first + rows.start, first + rows.stop)
            x1[rows], evaluations = next(self.sampler.draw(options.solver, options.steps, [numbers]))
            return evaluations * (rows.stop - rows.start)

        try:  # a number of threads changes the bits of some products, so a batch has one
            with ThreadPoolExecutor(self.at_once, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                evaluations = sum(pool.map(fill, batches_of(whole, options.batch))) / whole
        except torch.OutOfMemoryError as error:
            raise JobError(
                f"block {block}: a batch of {options.batch} samples does not fit the GPU's memory; finished blocks are "
                "kept: couple into a new directory with a smaller coupling.batch"
            ) from error
        finally:
            torch.set_num_threads(self.threads)
        x1 = x1[:count]
        lost = int((~x1.flatten(1).isfinite().all(1)).sum())
        if lost:
            raise JobError(
                f"block {block}: {lost:,} of {count:,} samples are not finite; train longer or with a smaller learning "
                "rate, or give another coupling.solver"
            )
        return x1.numpy(), evaluations

    def _coupled(
        self, block: int, x0: Float32[np.ndarray, "n k"], x1: Float32[np.ndarray, "n k"]
    ) -> tuple[dict[str, Any], Int64[np.ndarray, " n"]]:
        """Couple a block's noise with its samples; return the report of the plan, and the partners drawn from it.

        Args:
            block: the number of the block.
            x0: features of its noise.
            x1: features of its samples.
        """
        n, first = len(x0), self.job.blocks.first_row(block)
        sides = (torch.from_numpy(side).to(self.device) for side in (x0, x1))
        coupling = draw.solve_block(self.options, draw.build_problem(self.options, *sides))
        balanced = self.job.config.sampling.draw == "balanced"
        order = noise.permutation(self.seed, noise.Stream.BALANCE, n, high=block) if balanced else None
        uniforms = noise.uniforms(self.seed, noise.Stream.DRAW, first, n)
        _, partners = draw.draw_pairs(coupling, uniforms, None, order)
        return dataclasses.asdict(coupling.report), partners

    def _records(self, made: MadeBlock, rows: range) -> Iterator[Record]:
        """Yield the pairs of some of a block's rows; a sample's id is the source row that it was led from."""
        payload, first = self.job.config.output.payload, self.job.blocks.first_row(made.block)
        step = pairs_per_record(self.shape, payload)
        for start in range(rows.start, rows.stop, step):
            own = np.arange(start, min(start + step, rows.stop))
            chosen = made.partners[own]
            x0 = noise.gaussian(self.seed, first + start, len(own), int(np.prod(self.shape)))
            yield Record(
                first_row=start,
                x0=x0.reshape(-1, *self.shape) if payload == "full" else None,
                x1=made.x1[chosen],
                data_ids=first + chosen,
                labels=None if made.labels is None else made.labels[chosen],
                seed=self.seed,
                rows=first + own,
            )
