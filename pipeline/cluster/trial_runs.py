"""Trial runs: small jobs that measure what a large one will take, with the job's own code, data and actors.

Trials have two smaller block sizes or, where the job's own is not larger, that one. A semi-discrete solve is tried for
a few rounds.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks.division import Blocks, divide
from flowpairs.pipeline.cluster.executor import blocks_of, uses_ray
from flowpairs.pipeline.cluster.shapes import ActorShape
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.store import resume
from flowpairs.pipeline.store.potential_files import load_potentials

SIZES = {"exact": (1024, 2048)}  # rows of the two trials' blocks
OTHERS = 1024, 4096  # for all other methods
ON_GPU = 2**15, 2**17  # for those on a GPU, which smaller blocks do not keep busy: launches would be all that is timed
ROUNDS = 3  # of a trial's solve


@dataclass(frozen=True)
class TrialRun:
    """What a small job of one block size took."""

    n: int
    m: int
    entries: int  # n x m, or those within regions
    block_seconds: float
    pass_seconds: float  # of those, over these entries
    write_seconds: float
    start_seconds: float
    start_bytes: float
    first_bytes: float  # of an actor's first block, above `start_bytes`
    block_bytes: float  # of all blocks: freed memory is not all used again, and the previous block is being written
    pair_bytes: float
    potential_pace: float  # points times data per second, of a semi-discrete solve on all actors
    gpu_memory: float = 0.0  # of the smallest GPU of an actor, in bytes; 0 on CPUs


def trial_sizes(config: CoupleConfig, blocks: Blocks, shape: ActorShape) -> list[int]:
    """Choose the rows of the trials' blocks: as few as are informative, and enough that no member of a team is idle."""
    weighted = config.data.weight is not None or getattr(config.source, "weight", None) is not None
    if weighted and config.coupling.method != "semidiscrete":
        return [blocks.n]  # weights refer to all data together
    low, high = SIZES.get(config.coupling.method, ON_GPU if shape.gpus else OTHERS)
    team = config.cluster.actors_per_block
    if team > 1:
        import torch

        from flowpairs.pipeline.ot.tiles.tiling import sections

        device = torch.device("cuda" if shape.gpus else "cpu")
        while len(sections(low, min(low, blocks.ids), device)) < team and low < blocks.n:
            low *= 2
        high = max(high, 2 * low)
    return [low, high] if high < blocks.n else [blocks.n]


def rows_of_sample(config: CoupleConfig, blocks: Blocks, shape: ActorShape) -> int:
    """Compute how many rows of data the trials on a GPU need; 0 where those of any sample will do."""
    if not shape.gpus or config.coupling.method != "sinkhorn" or config.coupling.resample is not None:
        return 0
    return min(blocks.n, ON_GPU[-1])


def run_trial(job: Job, directory: Path, n: int, shape: ActorShape) -> TrialRun:
    """Run two blocks of n rows on every actor or team of the job; the first warms up, the second counts.

    Args:
        job: the job over all its data or a sample of them, with features.
        directory: directory of the trial's own store.
        n: pairs per block.
        shape: the job's actors.
    """
    config, legs = job.config, 0 if job.inputs.source is None else len(job.inputs.source.legs)
    teams = shape.actors // config.cluster.actors_per_block
    regions = config.coupling.regions
    if regions is not None:  # as large as the job's, but two at the least
        regions = max(2, round(regions * n / config.coupling.n))
    small = config.model_copy(
        update={
            "coupling": config.coupling.model_copy(
                update={"n": n, "on_unconverged": "record"}
                | ({"max_passes": ROUNDS} if config.coupling.method == "semidiscrete" else {})
                | ({} if regions is None else {"regions": regions})
            ),
            "output": config.output.model_copy(update={"dir": str(directory), "pairs": n * max(2 * teams, legs)}),
            "cluster": config.cluster.model_copy(
                update={"actors": shape.actors if uses_ray(config.cluster) else 0, "cpus_per_actor": shape.cpus}
            ),
        }
    )
    blocks = divide(small, len(job.inputs.target), job.inputs.source)
    resume.prepare_store(small, directory)
    started, rows, first = time.monotonic(), [], 0.0
    _, reports = blocks_of(replace(job, config=small, directory=directory, blocks=blocks), list(range(blocks.count)))
    with closing(reports):
        for row in reports:
            first = first or time.monotonic() - started
            rows.append(row)
    earliest = rows[0]
    rows.sort(key=lambda row: row["block"])
    counted, above = rows[teams:], [row["peak_bytes"] - row["start_bytes"] for row in rows]
    solving, pace = 0.0, math.inf
    if config.coupling.method == "semidiscrete":
        solved = load_potentials(directory).reports
        solving = sum(report["seconds"] for report in solved) / (teams if len(solved) > 1 else 1)
        pace = sum(report["points"] * report["data"] for report in solved) / solving
    tars = list((directory / "shards").glob("*.tar"))
    seconds = [max(row["solve_seconds"], row["write_seconds"]) for row in counted]
    writing = sum(row["write_seconds"] for row in counted) / len(counted)
    return TrialRun(
        n=n,
        m=blocks.m,
        entries=n * blocks.m // (regions or 1),
        block_seconds=sum(seconds) / len(seconds),
        pass_seconds=sum(row.get("pass_seconds", 0.0) for row in counted) / len(counted),
        write_seconds=writing,
        start_seconds=max(0.0, first - solving - earliest["solve_seconds"] - earliest["write_seconds"]),
        start_bytes=float(max(row["start_bytes"] for row in rows)),
        first_bytes=float(max(above[:teams])),
        block_bytes=float(max(above)),
        pair_bytes=sum(tar.stat().st_size for tar in tars) / blocks.pairs,
        potential_pace=pace,
        gpu_memory=float(min(row["gpu_bytes"] for row in rows)),
    )


def above(directory: Path) -> Path:
    """Find the nearest existing directory above this one."""
    return next(path for path in directory.absolute().parents if path.is_dir())


@contextmanager
def scratch(directory: AnyPath) -> Iterator[Path]:
    """Make a scratch directory on the disk of the output where that is local, so that its pace is measured."""
    there = above(directory) if isinstance(directory, Path) else None
    with tempfile.TemporaryDirectory(prefix=".flowpairs-plan-", dir=there) as scratch:
        yield Path(scratch)
