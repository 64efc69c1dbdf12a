"""The progress of a coupling job, read from its config and its sidecars alone; it may be running, dead or finished."""

import os
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from stat import S_ISREG

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.store import format


@dataclass(frozen=True)
class Status:
    """What the files of a pair store show.

    Attributes:
        complete: whether the index is written.
        blocks_total: number of blocks in all.
        blocks: number of blocks with every shard written.
        pairs_total: number of pairs in all.
        pairs: number of pairs in finished shards.
        bytes: bytes of finished shards.
        pairs_per_second: pace from the first shard's sidecar to the last one's; None with fewer than two.
        seconds_left: time left at that pace; None when unknown, 0 when complete.
        worst_marginal_error: largest L1 error of a marginal over the blocks so far.
        seconds_since_last_shard: age of the last sidecar; in a job that runs it stays below the time of a block.
        potentials: share of a semi-discrete coupling's solve that is done; None for other methods.
        solve: the same in words.
    """

    complete: bool
    blocks_total: int
    blocks: int
    pairs_total: int
    pairs: int
    bytes: int
    pairs_per_second: float | None
    seconds_left: float | None
    worst_marginal_error: float | None
    seconds_since_last_shard: float | None
    potentials: float | None = None
    solve: str | None = None


def read_status(directory: AnyPath) -> Status:
    """Read the status of a pair store.

    Raises:
        InputError: the directory holds no coupling job.
    """
    path = directory / "config.yaml"
    if not path.is_file() and (directory / "index.json").is_file():  # of pairs that no job made
        return _without_config(format.read_index(directory))
    if not path.is_file():
        raise InputError(
            f"{str(directory)!r}: no config.yaml, so no coupling or training job ran here; give its output.dir"
        )
    config = load(CoupleConfig, path)
    shards = directory / "shards"
    names = sorted(file.name for file in shards.iterdir()) if shards.is_dir() else []
    found = [shards / name for name in names if fnmatch(name, "pairs-*.json")]
    times = sorted(_changed(path) for path in found)
    sidecars = [format.read_sidecar(path) for path in found]
    n, total = config.coupling.n, config.output.pairs
    pairs = sum(s.shard.pairs for s in sidecars)
    per_block: dict[int, int] = {}
    for s in sidecars:
        per_block[s.shard.block] = per_block.get(s.shard.block, 0) + s.shard.pairs
    finished = sum(count == min(n, total - block * n) for block, count in per_block.items())
    pace = None
    if len(times) > 1 and times[-1] > times[0]:
        pace = (pairs - sidecars[0].shard.pairs) / (times[-1] - times[0])
    complete = (directory / "index.json").is_file()
    left = 0.0 if complete else (total - pairs) / pace if pace else None
    sides = [s.report.get(side) for s in sidecars for side in ("source_error", "target_error")]
    errors = [error for error in sides if error is not None]  # imported pairs have none
    solve = None
    if config.coupling.method == "semidiscrete":
        from flowpairs.pipeline.store import potential_files

        solve = potential_files.solve_progress(directory, potential_files.problem_numbers(config, directory))
    return Status(
        complete=complete,
        blocks_total=-(-total // n),
        blocks=finished,
        pairs_total=total,
        pairs=pairs,
        bytes=sum(s.shard.bytes for s in sidecars),
        pairs_per_second=pace,
        seconds_left=left,
        worst_marginal_error=max(errors, default=None),
        seconds_since_last_shard=time.time() - times[-1] if times else None,
        potentials=solve.share if solve else None,
        solve=solve.text if solve else None,
    )


def _without_config(index: format.Index) -> Status:
    """Describe a complete store from its index alone."""
    blocks = len({shard.block for shard in index.shards})
    size = sum(shard.bytes for shard in index.shards)
    return Status(True, blocks, blocks, index.pairs, index.pairs, size, None, 0.0, None, None)


def _changed(path: AnyPath) -> float:
    """Read when a sidecar was written, and refuse what is no plain file: a FIFO would wait, a device never end."""
    try:
        found = path.stat()
    except OSError as error:  # links to nothing, or to themselves
        reason = f"{path}: cannot be read ({error.strerror or error})"
        raise InputError(f"{reason}; remove it and its tar, then couple again") from error
    if isinstance(found, os.stat_result) and not S_ISREG(found.st_mode):
        raise InputError(f"{path}: no plain file; remove it and its tar, then couple again")
    return found.st_mtime
