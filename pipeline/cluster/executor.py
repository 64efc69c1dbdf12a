"""The executor of a job's blocks or semi-discrete problems: on Ray's actors or in this process, with the same bytes."""

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.progress import progress, remaining, repeated
from flowpairs.pipeline.base.threads import cores
from flowpairs.pipeline.cluster.shapes import ActorShape, actor_shape
from flowpairs.pipeline.config import ClusterConfig
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.store.potential_files import assemble_potentials, solve_progress, unsolved

if TYPE_CHECKING:
    import ray

    from flowpairs.pipeline.cluster.telemetry import Telemetry
    from flowpairs.pipeline.solve.timed import BuildSolver

PERMILLE = 1000  # units of the progress of potentials

Reports = Generator[dict[str, Any], None, None]


@dataclass(frozen=True)
class Processes:
    """The processes that solve a job: actors of a shape, or this process.

    Attributes:
        shape: number and size of actors; in this process one actor with all its cores.
        job: reference to the job in Ray's object store, which all actors of a node map; None in this process.
    """

    shape: ActorShape
    job: "ray.ObjectRef | None" = None

    def __str__(self) -> str:
        if self.job is None:
            return "in this process"
        return f"on {self.shape.actors} actor{'s' if self.shape.actors > 1 else ''}"


def uses_ray(config: ClusterConfig) -> bool:
    """Return whether a job runs on Ray; with `cluster.actors: 0` it runs in the calling process."""
    return config.actors != 0


def shape_for(config: ClusterConfig, blocks: int) -> ActorShape:
    """Decide on the actors for this number of blocks, or on the threads and device of this process."""
    if uses_ray(config):
        return actor_shape(config, blocks)
    return _own_shape(config)


def blocks_of(job: Job, todo: list[int]) -> tuple[Processes, Reports]:
    """Solve those potentials of a semi-discrete coupling that are missing, then yield the report of every block.

    Args:
        job: the job, or that of a trial run.
        todo: numbers of the blocks to compute.

    Returns: the processes that solve the blocks, and the blocks' reports as they are finished.
    """
    from flowpairs.pipeline.solve.block_solver import build_solver

    job = job.with_features()
    reference = None
    if uses_ray(job.config.cluster):
        import ray

        reference = ray.put(job)  # once: all actors on a node map the same memory
    if job.config.coupling.method == "semidiscrete":
        _solve_potentials(job, reference)
    workers = Processes(shape_for(job.config.cluster, len(todo)), reference)
    return workers, _solve_all(job, build_solver, todo, workers, job.config.cluster.actors_per_block)


@contextmanager
def job_metrics(job: Job) -> Iterator["Telemetry | None"]:
    """Open the job's series in Ray's metrics; yields None where the job runs without Ray."""
    if not uses_ray(job.config.cluster):
        yield None
        return
    from flowpairs.pipeline.cluster.telemetry import telemetry

    with telemetry(job.store) as series:
        yield series


def _solve_all(job: Job, solver: "BuildSolver", numbers: Sequence[int], workers: Processes, team: int) -> Reports:
    """Yield the report of each block or problem as it is finished; closing the generator ends the work.

    Args:
        job: the job, with its features.
        solver: `build_solver`, or `PotentialSolver`.
        numbers: numbers of the blocks or problems.
        workers: processes that solve them.
        team: number of actors that solve one together.

    Raises:
        InputError, JobError: raised by a solver or by `schedule`.
    """
    if workers.job is None:
        return _solve_here(job, solver, numbers, workers.shape)
    from flowpairs.pipeline.cluster.actors import ActorPool
    from flowpairs.pipeline.cluster.scheduler import schedule

    return schedule(ActorPool(workers.shape, team, solver, workers.job, ahead=works_ahead(workers.shape)), numbers)


def _solve_here(job: Job, solver: "BuildSolver", numbers: Sequence[int], shape: ActorShape) -> Reports:
    """Solve in this thread, and write each block in another thread while the next one is solved."""
    import torch

    from flowpairs.pipeline.solve.timed import TimedSolver

    threads = torch.get_num_threads()
    try:
        timed = TimedSolver(solver(job, shape.cpus, "cuda" if shape.gpus else "cpu"))
        with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
            writing = None
            following = [*numbers[1:], None] if works_ahead(shape) else [None] * len(numbers)
            for number, ahead in zip(numbers, following, strict=True):
                solved = timed.solve(number, ahead)
                if writing is not None:
                    yield writing.result()
                writing = writer.submit(timed.write, solved)
            if writing is not None:
                yield writing.result()
    finally:
        torch.set_num_threads(threads)


def works_ahead(shape: ActorShape) -> bool:
    """Return whether the next block's inputs are made while one is solved: beside a GPU, not on cores that solve."""
    return shape.gpus > 0


def memory_for(config: ClusterConfig, shape: ActorShape) -> list[tuple[int, float]]:
    """Compute how many actors of a shape each node will hold at once, and the bytes of memory that it has for them."""
    if uses_ray(config):
        from flowpairs.pipeline.cluster.shapes import capacity

        return capacity(shape)
    from flowpairs.pipeline.base.environment import available_memory

    return [(1, float(available_memory()))]


def _own_shape(config: ClusterConfig) -> ActorShape:
    """Build the shape of this process: all cores that it may use or those asked for, and a GPU where torch sees one."""
    cpus = cores() if config.cpus_per_actor == "auto" else config.cpus_per_actor
    import torch

    if config.gpus_per_actor != "auto":
        if config.gpus_per_actor > torch.cuda.device_count():
            raise InputError(
                f"cluster.gpus_per_actor={config.gpus_per_actor:g}: this machine has {torch.cuda.device_count()} CUDA "
                "devices that torch sees; give 0 or auto"
            )
        return ActorShape(1, cpus, config.gpus_per_actor)
    return ActorShape(1, cpus, 1.0 if torch.cuda.is_available() else 0.0)


def _solve_potentials(job: Job, reference: Any) -> None:
    """Solve what is left of a semi-discrete coupling: one problem on all actors, or one problem per class and actor."""
    from flowpairs.pipeline.solve.potentials import PotentialSolver, unconverged_problem

    config, directory, conditions = job.config, job.store, job.inputs.conditions
    todo, problems = unsolved(directory, conditions), conditions.problems()
    apart = len(problems) > 1 or not uses_ray(config.cluster)
    parts = len(todo) if apart else _most_members(config.cluster, job.blocks.ids)
    workers = Processes(shape_for(config.cluster, parts), reference)
    began, before = time.monotonic(), solve_progress(directory, problems).share
    with progress(f"potentials {workers}", PERMILLE) as show, job_metrics(job) as metrics:

        def report_progress() -> None:
            now = solve_progress(directory, problems)
            left = remaining(now.share - before, 1 - before, time.monotonic() - began)
            show(round(PERMILLE * now.share), f"{now.text}  {left} left")
            if metrics:
                metrics.set(couple_potentials_ratio=now.share)

        reports = _solve_all(job, PotentialSolver, todo, workers, 1 if apart else workers.shape.actors)
        with repeated(report_progress), closing(reports):
            for report in reports:
                if not report["converged"] and config.coupling.on_unconverged == "fail":
                    raise unconverged_problem(report, config.coupling.chi2)
    assemble_potentials(directory, conditions, job.blocks.ids)


def _most_members(config: ClusterConfig, ids: int) -> int:
    """Compute how many actors can share a semi-discrete problem of this number of data."""
    import torch

    from flowpairs.pipeline.cluster.shapes import takes_gpus
    from flowpairs.pipeline.ot.semidiscrete.targets import BATCH
    from flowpairs.pipeline.ot.tiles.tiling import sections

    return len(sections(ids, BATCH, torch.device("cuda" if takes_gpus(config) else "cpu")))
