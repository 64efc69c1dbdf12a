"""The coupling job: check the input, read the data, run the blocks on actors, write the index last.

Run again, it goes on where it stopped: a block whose shards all have their sidecars is not computed again, and what it
recomputes comes out in the same bits.
"""

import hashlib
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np

from flowpairs.pipeline import data
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.base.progress import progress, remaining, repeated
from flowpairs.pipeline.blocks import source
from flowpairs.pipeline.blocks.division import Blocks, divide
from flowpairs.pipeline.blocks.imported_pairs import PairTable, check_table, read_table
from flowpairs.pipeline.blocks.source import SourceData
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.data import DataSpec, Target
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.store import block_reports, format, resume

if TYPE_CHECKING:
    from flowpairs.pipeline.cluster.connect import ActorShape

PERMILLE = 1000  # what progress of potentials is counted in


@dataclass(frozen=True)
class Beside:
    """Another job that runs on the same cluster.

    Attributes:
        taken: CPUs and GPUs that it holds, by the node's id.
        stop: set by another thread to end the couplings.
    """

    taken: dict[str, tuple[float, float]] = field(default_factory=dict)
    stop: Event | None = None


def couple(config: CoupleConfig, on_block: Callable[[dict[str, Any]], None] = lambda row: None) -> format.Index:
    """Make the pair store that `config` describes, or complete it.

    Args:
        config: the job.
        on_block: told the report of every block computed, as it comes.

    Raises:
        InputError: anything wrong with the config, the data or the output directory, found before Ray starts.
        JobError: a block did not converge or died too often.
    """
    job = begin(config)
    return job if isinstance(job, format.Index) else carry_out(job, on_block)


def begin(config: CoupleConfig, beside: Sequence[dict[str, float]] = ()) -> Job | format.Index:
    """Check the config, read the data and prepare the directory; the index where the store is complete already.

    Args:
        config: the job.
        beside: what an autoscaler is asked for besides its actors, in Ray's words a bundle each.

    Raises:
        InputError: as `couple`.
    """
    directory = as_path(config.output.dir)
    if finished := resume.find_complete(config, directory):
        return finished
    spec = data.check_data(config.data)
    source_spec = source.check(config, spec)
    table = None
    if config.coupling.table is not None:
        table = read_table(config.coupling.table, spec.shape)
        config = resume.pin(config, "table_fingerprint", table.fingerprint(), "table")
    known = spec.rows if not config.two_sided else None  # whose blocks hold what is known when both sides are read
    if known is not None:
        check_sizes(config, known, table)
    from flowpairs.pipeline.cluster.connect import connect

    connect(config.cluster, beside)
    if known is not None:
        check_teams(config, check_sizes(config, known, table))
    job = assemble(config, *read(config, spec, source_spec), table)
    check_teams(config, job.blocks)
    resume.prepare_store(job.config, job.directory, job.target, job.source)
    format.write_outline(job.directory, job.outline())
    return job


def read(config: CoupleConfig, spec: DataSpec, source_spec: DataSpec | None) -> tuple[Target, SourceData | None]:
    """Read both sides, of which checks have found these specifications."""
    target = data.read_data(config.data, spec)
    return target, source.read_source(config, source_spec, target)


def assemble(config: CoupleConfig, target: Target, other: SourceData | None, table: PairTable | None = None) -> Job:
    """The job over data that were read; nothing is written.

    Raises:
        InputError: sizes that do not fit, or other data than the config or the store expects.
    """
    directory, blocks = as_path(config.output.dir), check_sizes(config, len(target.x), table, other)
    config = resume.pin_data(pin_coupling(config, blocks, target, other), directory, target)
    return Job(config, directory.resolve(), blocks, target, other, table)


def carry_out(
    job: Job, on_block: Callable[[dict[str, Any]], None] = lambda row: None, beside: Beside | None = None
) -> format.Index:
    """Compute the blocks that are left, and write the index.

    Args:
        job: as `begin` gave it.
        on_block: told the report of every block computed, as it comes.
        beside: another job that the cluster is shared with.

    Raises:
        InputError: the cluster cannot hold the actors that the config asks for.
        JobError: as `couple`, and where another thread ends it.
    """
    done = resume.blocks_done(job.directory, job.blocks)
    todo = [block for block in range(job.blocks.count) if block not in done]
    if todo or job.config.coupling.method == "semidiscrete":  # whose potentials may be all that is missing
        _run(job, todo, on_block, beside)
    return finish_store(job)


def check_sizes(config: CoupleConfig, rows: int, table: PairTable | None, source: SourceData | None = None) -> Blocks:
    """Divide the job, and refuse an exact coupling that memory cannot hold or a table that does not fit the data."""
    blocks = divide(config, rows, source)
    if config.features.pca is not None and config.coupling.method in ("independent", "imported"):
        raise InputError(f"features.pca: {config.coupling.method} pairs have no cost to see features; remove it")
    if table is not None:
        if config.sampling.draw != "categorical":
            raise InputError(f"sampling.draw={config.sampling.draw!r}: imported pairs are not drawn; remove it")
        check_table(table, f"coupling.table={config.coupling.table!r}", blocks.ids, blocks.pairs, config.output.payload)
    if config.coupling.sharpness is not None and not config.two_sided and config.data.weight is None:
        from flowpairs.pipeline.ot.sinkhorn.target_sharpness import check_reachable

        check_reachable(config.coupling.sharpness, math.log(blocks.rows), math.log(blocks.m))
    if config.coupling.method == "exact":
        from flowpairs.pipeline.ot import check_exact_memory

        check_exact_memory(blocks.rows, blocks.m)
    return blocks


def check_teams(config: CoupleConfig, blocks: Blocks) -> None:
    """Refuse teams that the cluster cannot hold or a block cannot keep busy, before data are read; Ray is running."""
    team = config.cluster.actors_per_block
    if team == 1:
        return
    import torch

    from flowpairs.pipeline.cluster.connect import actor_shape
    from flowpairs.pipeline.ot.tiles.partition import check_team

    shape = actor_shape(config.cluster, blocks.count)
    check_team(team, blocks.rows, blocks.m, torch.device("cuda" if shape.gpus else "cpu"))


def _run(job: Job, todo: list[int], on_block: Callable[[dict[str, Any]], None], beside: Beside | None) -> None:
    """Couple the blocks that are left, and tell how far they are."""
    from flowpairs.pipeline.cluster.telemetry import telemetry

    shape, reports, todo = run_blocks(job, todo, beside)
    config, blocks = job.config, job.blocks
    done = done_before = blocks.pairs - sum(blocks.pairs_of(block) for block in todo)
    began, errors = time.monotonic(), []
    title = f"coupling on {shape.actors} actors"
    # An error here must not keep the generator, and with it the actors, until its traceback is forgotten.
    with closing(reports), progress(title, blocks.pairs) as show, telemetry(job.directory) as told:
        told.set(couple_blocks_done=blocks.count - len(todo), couple_blocks_left=len(todo))
        for number, row in enumerate(reports, blocks.count - len(todo) + 1):
            if not row["converged"] and config.coupling.on_unconverged == "fail":
                raise JobError(_unconverged(row))
            on_block(row)
            pairs = blocks.pairs_of(row["block"])
            done += pairs
            errors += [row[side] for side in ("source_error", "target_error") if row[side] is not None]
            seconds = time.monotonic() - began
            pace = (done - done_before) / seconds
            text = (
                f"{number}/{blocks.count} blocks  {pace:,.0f} pairs/s  "
                f"{remaining(float(done - done_before), float(blocks.pairs - done_before), seconds)} left"
            )
            show(done, text + (f"  worst marginal error {max(errors):.1e}" if errors else ""))
            told.block(pairs, row["passes"] if config.coupling.method == "sinkhorn" else None)
            told.set(couple_blocks_done=number, couple_blocks_left=blocks.count - number, couple_pairs_per_second=pace)
            if errors:
                told.set(couple_marginal_error=max(errors))


def run_blocks(
    job: Job, todo: list[int], beside: Beside | None = None
) -> tuple["ActorShape", Generator[dict[str, Any], None, None], list[int]]:
    """Hire as many actors as fit and couple the blocks `todo` on them.

    Returns: the actors' shape, the report of every block as it is finished, and the blocks, of which there are more
    than asked for where others start from potentials that were lost.
    """
    import ray

    from flowpairs.pipeline.cluster.actors import Posts
    from flowpairs.pipeline.cluster.connect import actor_shape
    from flowpairs.pipeline.cluster.scheduler import work
    from flowpairs.pipeline.solve import start as starts
    from flowpairs.pipeline.solve.block_solver import BlockSolver

    config, blocks, beside = job.config, job.blocks, beside or Beside()
    # The arrays go into the object store once; every actor on a node maps the same memory.
    shared = [ray.put(value) for value in job.arrays()]
    if config.coupling.method == "semidiscrete":
        _solve_potentials(job, [shared[5], shared[3], shared[6]], beside)
    shape, per_block = actor_shape(config.cluster, len(todo), beside.taken), config.cluster.actors_per_block
    posts = Posts(shape, per_block, BlockSolver, config, job.directory, blocks, shared, shape.cpus)
    stages = [todo]
    if config.coupling.warm_start:
        later = [block for block in todo if block not in blocks.seeds]
        lost = [block for block in blocks.seeds if later and not starts.block_file(job.directory, block).is_file()]
        todo = sorted({*lost, *todo})
        stages = [[block for block in todo if block in blocks.seeds], later]
    return shape, work(posts, shape.actors // per_block, stages, beside.stop), todo


def _solve_potentials(job: Job, shared: list[Any], beside: Beside) -> None:
    """Solve what is left of a semi-discrete coupling: one problem by all actors together, or one a class by each."""
    from flowpairs.pipeline.blocks.conditions import read_conditions
    from flowpairs.pipeline.cluster.actors import Posts
    from flowpairs.pipeline.cluster.connect import actor_shape
    from flowpairs.pipeline.cluster.scheduler import work
    from flowpairs.pipeline.cluster.telemetry import telemetry
    from flowpairs.pipeline.solve import potentials

    config, directory, blocks = job.config, job.directory, job.blocks
    given = read_conditions(config.coupling, job.target)
    todo = potentials.unsolved(directory, given)
    alone = len(given.problems()) > 1
    shape = actor_shape(config.cluster, len(todo) if alone else potentials.most_members(blocks.ids), beside.taken)
    team = 1 if alone else shape.actors
    posts = Posts(shape, team, potentials.PotentialSolver, config, directory, blocks, shared, shape.cpus)
    began, problems = time.monotonic(), given.problems()
    before = potentials.solve_progress(directory, problems).share
    with progress(f"potentials on {shape.actors} actors", PERMILLE) as show, telemetry(directory) as told:

        def tell() -> None:
            now = potentials.solve_progress(directory, problems)
            left = remaining(now.share - before, 1 - before, time.monotonic() - began)
            show(round(PERMILLE * now.share), f"{now.text}  {left} left")
            told.set(couple_potentials_ratio=now.share)

        reports = work(posts, shape.actors // team, [todo], beside.stop)
        with repeated(tell), closing(reports):
            for report in reports:
                if not report["converged"] and config.coupling.on_unconverged == "fail":
                    raise potentials.unconverged(report, config.coupling.chi2)
    potentials.assemble_potentials(directory, given, blocks.ids)


def pin_coupling(config: CoupleConfig, blocks: Blocks, target: Any, source: SourceData | None = None) -> CoupleConfig:
    """The config with the fingerprints of its source, its condition file, its costs and where it starts from."""
    from flowpairs.pipeline.blocks import cost_matrix
    from flowpairs.pipeline.blocks.conditions import read_conditions
    from flowpairs.pipeline.blocks.source import pin_source
    from flowpairs.pipeline.solve import start as starts

    config = pin_source(config, source)
    costs = cost_matrix.load_cost_matrix(config.coupling, blocks, source)
    digest = None if costs is None else hashlib.sha256(np.ascontiguousarray(costs, "<f4").data).hexdigest()
    config = resume.pin(config, "matrix_fingerprint", digest, "matrix")
    found = read_conditions(config.coupling, target).fingerprint
    config = resume.pin(config, "condition_fingerprint", found, "condition_file")
    if config.coupling.start is None:
        return config
    start = starts.potentials_of_store(config.coupling.start, blocks, target)
    return resume.pin(config, "start_fingerprint", hashlib.sha256(start.data).hexdigest(), "start")


def _unconverged(row: dict[str, Any]) -> str:
    return (
        f"block {row['block']} stopped after {row['passes']} passes at a marginal error of {row['target_error']:.1e}; "
        "raise coupling.max_passes, coupling.tol or the epsilon, or accept it with coupling.on_unconverged=record"
    )


def finish_store(job: Job) -> format.Index:
    """Write blocks.parquet and, last, the index, from the sidecars alone."""
    blocks = job.blocks
    names = [format.shard_name(number) for block in range(blocks.count) for number in blocks.shards(block)]
    sidecars = [format.read_sidecar(format.sidecar_path(job.directory, name)) for name in names]
    block_reports.write_blocks(job.directory, {s.shard.block: s.report for s in sidecars}.values())
    index = job.index([s.shard for s in sidecars])
    format.write_index(job.directory, index)
    return index
