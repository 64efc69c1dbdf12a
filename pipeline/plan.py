"""The forecast of what a coupling job will take on this cluster, scaled up from small trial runs.

Trials (pipeline/cluster/trial_runs.py) run the job's own code on its own data and actors. A block's seconds grow as A n
m + B n (passes and draws; noise, features, stand-ins and writing), an exact coupling's as a power of n. Where a block
has regions, those of a trial have as many rows, and n m counts the entries in regions alone. Memory above that of an
idle actor grows as n (exact: n m), from what the libraries take once they work. A semi-discrete solve is assumed to
take the points that it will need at the trial's pace. If a store is begun, only the rest is forecast.
"""

import dataclasses
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.base.progress import working
from flowpairs.pipeline.blocks.division import Blocks
from flowpairs.pipeline.cluster import trial_runs
from flowpairs.pipeline.cluster.executor import memory_for, shape_for
from flowpairs.pipeline.cluster.shapes import ActorShape
from flowpairs.pipeline.cluster.trial_runs import TrialRun
from flowpairs.pipeline.config import CoupleConfig, CouplingConfig, check_cost, pin
from flowpairs.pipeline.couple import check_sizes, survey_job
from flowpairs.pipeline.solve.device_memory import ahead_bytes, block_bytes, data_bytes, largest_block
from flowpairs.pipeline.solve.inputs import Survey
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.solve.sampled import MOST, sample_inputs
from flowpairs.pipeline.store import resume
from flowpairs.pipeline.store.potential_files import unsolved

# A solve draws N / chi2 points times the first, or sqrt(2 N) / chi2 times the second (measured).
POINTS, TESTS = 1.25, 40.0
SURE = 1.1  # times a first block's memory, whose peak differs from run to run (measured)
KEPT, FILLED = 1.3, 4  # times the memory of a block: what the allocator keeps grows over some blocks (measured)
PASSES = 1.1  # times the passes of blocks larger than a trial's, some of which take four, not three (measured)


@dataclass(frozen=True)
class Plan:
    """The forecast of a job."""

    pairs: int
    blocks: int
    pairs_left: int  # not finished by earlier runs; the forecast is for these
    blocks_left: int
    n: int  # source rows per block
    m: int  # target rows per block
    actors: int
    actors_per_block: int
    block_seconds: float  # per block, on one actor or one team
    start_seconds: float  # reading the data, features, starting the actors
    seconds: float  # of the whole job, without Ray's own start
    actor_bytes: int  # memory of one actor, including the data that it shares with others
    shards: int
    shard_bytes: int  # in all
    trial_seconds: float  # what the forecast took
    potential_seconds: float = 0.0  # of a semi-discrete coupling's solve, part of `start_seconds`
    potential_points: int = 0  # points that it will draw, approximately
    payload: str = "full"  # what `output.payload` is, or `auto` comes to
    data_bytes: int = 0  # of rows and features that the job will write
    head_bytes: int = 0  # memory of the driver
    gpu_bytes: int = 0  # of a GPU's memory, for one actor of a Sinkhorn coupling; 0 on CPUs
    gpus_per_actor: float = 0.0  # 0 on CPUs

    @property
    def device_hours(self) -> float:
        """GPU hours where the actors have GPUs, else hours of actors."""
        return self.seconds * self.actors * (self.gpus_per_actor or 1.0) / 3600


def plan(config: CoupleConfig) -> Plan:
    """Forecast the job that `config` describes.

    Raises:
        InputError: what `couple` refuses of the output, the data and sizes, or a job that the nodes' memory or the disk
            cannot hold.
    """
    began = time.monotonic()
    config, surveyed = survey_plan(config)
    forecast = Forecaster(config, surveyed).plan(config)
    return dataclasses.replace(forecast, trial_seconds=time.monotonic() - began)


def survey_plan(config: CoupleConfig) -> tuple[CoupleConfig, Survey]:
    """Refuse what can be refused before the data are read, then join or start Ray where the job uses it.

    Returns: the config with its payload decided, and the inputs' survey.

    Raises:
        InputError: as `plan`.
    """
    check_cost(config)
    resume.check_directory(config, as_path(config.output.dir))
    if config.coupling.method == "imported":
        raise InputError("coupling.method='imported': copies a table, and nothing of that is forecast; run couple")
    if config.coupling.method == "reflow":
        raise InputError(
            "coupling.method='reflow': samples of a network, whose time is not forecast; run couple, which shows its "
            "pace after the first block and goes on where it was stopped"
        )
    return survey_job(config)


class Forecaster:
    """Forecasts jobs of one method over the same data, which are read once; trials that serve several are run once.

    Args:
        config: one of the jobs, with its payload decided.
        surveyed: what is known of its data.
        most: largest number of rows of a side that are read.

    Attributes:
        sampled: the data that were read.
    """

    def __init__(self, config: CoupleConfig, surveyed: Survey, most: int = MOST) -> None:
        self._surveyed, self._directory = surveyed, as_path(config.output.dir)
        self._tried: dict[tuple[str, ActorShape, tuple[int, ...]], list[TrialRun]] = {}
        with working("reading the data"):
            self.sampled = sample_inputs(config, surveyed, self._directory, most)

    def plan(self, config: CoupleConfig) -> Plan:
        """Forecast a job.

        Args:
            config: the job, which may differ from the first in `coupling` but not in its method.

        Raises:
            InputError: as the function `plan`.
        """
        began, directory, sampled = time.monotonic(), self._directory, self.sampled
        blocks = check_sizes(config, sampled.rows, self._surveyed.table, sampled.source)
        if sampled.complete:
            config = pin(config, sampled.inputs.fingerprints)
            resume.check_same(config, directory)
        done = resume.blocks_done(directory, blocks)
        todo, left = blocks.count - len(done), blocks.pairs - sum(blocks.pairs_of(block) for block in done)
        semidiscrete = config.coupling.method == "semidiscrete"
        points, entries = _potentials(sampled.job(config), blocks, directory) if semidiscrete else (0, 0.0)
        if not todo and not points:
            return _nothing(blocks, config, time.monotonic() - began)
        shape = shape_for(config.cluster, todo)
        tried = self._try(config, blocks, shape)
        sampled, last = self.sampled, tried[-1]
        solving = entries / last.potential_pace if points else 0.0
        starting = sampled.seconds + last.start_seconds + solving
        if not todo:
            nothing = _nothing(blocks, config, time.monotonic() - began)
            return dataclasses.replace(
                nothing,
                actors=shape.actors,
                gpus_per_actor=shape.gpus,
                start_seconds=starting,
                seconds=starting,
                actor_bytes=round(last.start_bytes + last.block_bytes),
                potential_seconds=solving,
                potential_points=points,
            )
        block_seconds = _at(tried, blocks, config.coupling)
        waves = math.ceil(todo / (shape.actors // config.cluster.actors_per_block))
        # The last block may be cut short, and its writing does not overlap with the solve of another block.
        writing = last.write_seconds * min(1.0, left / blocks.n) * blocks.n / last.n
        each = todo * config.cluster.actors_per_block / shape.actors
        actor_bytes = last.start_bytes + _block_bytes(tried, blocks, config, each)
        shards = (blocks.count - 1) * len(blocks.shards(0)) + len(blocks.shards(blocks.count - 1))
        forecast = Plan(
            pairs=blocks.pairs,
            blocks=blocks.count,
            pairs_left=left,
            blocks_left=todo,
            n=blocks.n,
            m=blocks.m,
            actors=shape.actors,
            actors_per_block=config.cluster.actors_per_block,
            gpus_per_actor=shape.gpus,
            block_seconds=block_seconds,
            start_seconds=starting,
            seconds=starting + waves * block_seconds + writing,
            actor_bytes=round(actor_bytes),
            shards=shards - sum(len(blocks.shards(block)) for block in done),
            shard_bytes=round(left * last.pair_bytes),
            trial_seconds=time.monotonic() - began,
            potential_seconds=solving,
            potential_points=points,
            payload=config.output.payload,
            data_bytes=sampled.row_bytes + sampled.feature_bytes,
            head_bytes=sampled.head_bytes,
            gpu_bytes=gpu_need(config, blocks, sampled.space.map.dim, last.gpu_memory * min(1.0, shape.gpus)),
        )
        _refuse_memory(config, shape, forecast, last.start_bytes)
        _refuse_disk(config, directory, forecast)
        return forecast

    def _try(self, config: CoupleConfig, blocks: Blocks, shape: ActorShape) -> list[TrialRun]:
        """Run the trials of a job, or return those of another that differs from it in the size of blocks alone."""
        wanted = trial_runs.rows_of_sample(config, blocks, shape)
        if self.sampled.most < wanted:
            with working(f"reading {wanted:,} rows, for trials that keep a GPU busy"):
                self.sampled = sample_inputs(config, self._surveyed, self._directory, wanted)
        most, sizes = self.sampled.most, trial_runs.trial_sizes(config, blocks, shape)
        if config.coupling.resample is None and config.coupling.method != "semidiscrete":  # a block has no datum twice
            sizes = [n if n <= most else max(1, most // (len(sizes) - i)) for i, n in enumerate(sizes)]
        key = config.coupling.model_dump_json(exclude={"n", "resample"}), shape, tuple(sizes)
        if key not in self._tried:
            job, tried = self.sampled.job(config), list[TrialRun]()
            with trial_runs.scratch(self._directory) as scratch:
                for number, n in enumerate(sizes, 1):
                    with working(f"trying blocks of {n:,} rows, trial {number} of {len(sizes)}"):
                        tried.append(trial_runs.run_trial(job, scratch / str(n), n, shape))
            self._tried[key] = tried
        return self._tried[key]


def _potentials(job: Job, blocks: Blocks, directory: AnyPath) -> tuple[int, float]:
    """Estimate the points that a semi-discrete solve will draw and the scores that it computes; none if solved.

    Args:
        job: the job over a sample of the data.
        blocks: division of the whole job.
        directory: its store.
    """
    conditions, chi2, share = job.inputs.conditions, job.config.coupling.chi2, blocks.ids / job.blocks.ids
    left = unsolved(directory, conditions)
    sizes = [round(share * len(conditions.ids(problem, job.blocks.ids))) for problem in left]
    points = [points_of_solve(size, chi2) for size in sizes]
    return round(sum(points)), float(sum(size * count for size, count in zip(sizes, points, strict=True)))


def points_of_solve(size: int, chi2: float) -> float:
    """Estimate the points that a semi-discrete solve of `size` data draws."""
    return max(POINTS * size, TESTS * math.sqrt(2 * size)) / chi2


def _nothing(blocks: Blocks, config: CoupleConfig, looked: float) -> Plan:
    """Build the forecast of a job that is done."""
    return Plan(
        pairs=blocks.pairs,
        blocks=blocks.count,
        pairs_left=0,
        blocks_left=0,
        n=blocks.n,
        m=blocks.m,
        actors=0,
        actors_per_block=config.cluster.actors_per_block,
        block_seconds=0.0,
        start_seconds=0.0,
        seconds=0.0,
        actor_bytes=0,
        shards=0,
        shard_bytes=0,
        trial_seconds=looked,
    )


def _at(tried: list[TrialRun], blocks: Blocks, coupling: CouplingConfig) -> float:
    """Estimate the seconds of a block of the job's size."""
    high = tried[-1]
    if (high.n, high.m) == (blocks.n, blocks.m):
        return high.block_seconds
    if coupling.method == "exact" and len(tried) > 1:
        low = tried[0]
        power = math.log(high.block_seconds / low.block_seconds) / math.log(high.n / low.n)
        return high.block_seconds * (blocks.n / high.n) ** max(2.0, power)
    passes = _line([(t.entries, t.pass_seconds) for t in tried], blocks.n * blocks.m // (coupling.regions or 1))
    rest = _line([(t.n, t.block_seconds - t.pass_seconds) for t in tried], blocks.n)
    passes, rest = max(passes, high.pass_seconds), max(rest, high.block_seconds - high.pass_seconds)
    return (PASSES if coupling.method == "sinkhorn" else 1.0) * passes + rest


def _block_bytes(tried: list[TrialRun], blocks: Blocks, config: CoupleConfig, each: float) -> float:
    """Estimate the memory of an actor that solves `each` blocks, above that of an idle one."""
    size = _size(blocks, config)

    def at(above: Callable[[TrialRun], float]) -> float:
        """Extrapolate to a block of the job's size, no less than the larger trial's memory."""
        return max(_line([(_size(trial, config), above(trial)) for trial in tried], size), above(tried[-1]))

    if each == 1:
        return SURE * at(lambda trial: trial.first_bytes)
    return (1 + (KEPT - 1) * min(1.0, (each - 1) / FILLED)) * at(lambda trial: trial.block_bytes)


def _size(block: TrialRun | Blocks, config: CoupleConfig) -> int:
    """Compute what a block's memory is proportional to: its rows, or the matrix entries of an exact coupling."""
    return block.n * block.m if config.coupling.method == "exact" else block.n


def _line(points: list[tuple[int, float]], x: int) -> float:
    """Evaluate at x the line through two points, or through one and the origin."""
    if len(points) == 1 or points[0][0] == points[1][0]:
        return points[-1][1] * x / points[-1][0]
    (x0, y0), (x1, y1) = points
    return y1 + (y1 - y0) / (x1 - x0) * (x - x1)


def _refuse_memory(config: CoupleConfig, shape: ActorShape, forecast: Plan, start_bytes: float) -> None:
    """Refuse a job whose actors some node cannot hold; suggest an n or a number of actors that fits."""
    per_row = (forecast.actor_bytes - start_bytes) / forecast.n
    for held, memory in memory_for(config.cluster, shape):
        if held * forecast.actor_bytes <= memory:
            continue
        rows = int(forecast.n - (forecast.actor_bytes - memory / held) / per_row) if per_row > 0 else 0
        remedies = [f"coupling.n={rows}"] if rows > 0 else []
        if held > 1 and forecast.actor_bytes <= memory:
            remedies.append(f"cluster.cpus_per_actor={shape.cpus * held // int(memory // forecast.actor_bytes)}")
        raise InputError(
            f"coupling.n={forecast.n}: an actor takes about {forecast.actor_bytes / 2**30:.1f} GiB, and a node has "
            f"{memory / 2**30:.1f} GiB for {held} of them; give {' or '.join(remedies) or 'nodes with more memory'}"
        )


def gpu_need(config: CoupleConfig, blocks: Blocks, d: int, memory: float) -> int:
    """Estimate the memory that a job takes on each of its GPUs.

    Of a Sinkhorn coupling it is that of a block and of the next one's points, of a semi-discrete one that of all data.
    It is 0 for other couplings and on CPUs.

    Args:
        config: the job.
        blocks: its division.
        d: features of a row.
        memory: what an actor has of a GPU's memory, in bytes; 0 where there is none.

    Raises:
        InputError: it is not enough.
    """
    if memory and config.coupling.method == "semidiscrete":
        need = data_bytes(blocks.ids, d)
        if need > memory:
            raise InputError(
                f"data: {blocks.ids:,} data of {d:,} features take about {need / 1e9:,.3g} GB of a GPU, and an actor "
                f"has {memory / 1e9:,.3g} GB; give fewer features (features.pca) or GPUs with more memory"
            )
        return round(need)
    if not memory or config.coupling.method != "sinkhorn":
        return 0
    team = config.cluster.actors_per_block
    need = block_bytes(blocks.n, blocks.m, d, team)
    if need > memory:
        fits = largest_block(memory, d, team)
        remedy = f"coupling.n={fits} or " if fits else ""
        raise InputError(
            f"coupling.n={blocks.n}: a block of {blocks.n} x {blocks.m} rows of {d} features takes about "
            f"{need / 1e9:,.3g} GB of a GPU, and an actor has {memory / 1e9:,.3g} GB; give {remedy}GPUs with more "
            "memory"
        )
    return round(need + ahead_bytes(blocks.n, blocks.m, d, team, memory))


def _refuse_disk(config: CoupleConfig, directory: AnyPath, forecast: Plan) -> None:
    if not isinstance(directory, Path):
        return
    free = shutil.disk_usage(trial_runs.above(directory)).free
    if forecast.data_bytes > free:
        raise InputError(
            f"output.dir={str(directory)!r}: rows and features take {forecast.data_bytes / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free; give a disk with more"
        )
    free -= forecast.data_bytes
    if forecast.shard_bytes > free:
        fits = int(forecast.pairs_left * free / forecast.shard_bytes) + forecast.pairs - forecast.pairs_left
        lighter = {"full": "seeded", "seeded": "ids"}.get(config.output.payload)
        leaner = f"output.payload={lighter} or " if lighter else ""
        raise InputError(
            f"output.pairs={forecast.pairs}: shards of about {forecast.shard_bytes / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free; give {leaner}output.pairs={fits}"
        )
