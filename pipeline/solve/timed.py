"""A solver that reports the time and memory that each of its blocks or problems took in this process."""

import resource
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flowpairs.pipeline.base.errors import JobError
from flowpairs.pipeline.solve.device_memory import block_bytes, gpu_bytes, largest_block
from flowpairs.pipeline.solve.job import Job

if TYPE_CHECKING:  # torch is not imported by a driver that only schedules
    from flowpairs.pipeline.ot.tiles.partition import Team


@runtime_checkable
class Solver(Protocol):
    """What solves numbered pieces of a job: its blocks, or the problems of a semi-discrete coupling."""

    job: Job
    device: str  # "cpu" or "cuda"
    team: "Team"  # replaced by an actor that is a member of one

    def solve(self, number: int, ahead: int | None = None) -> Any:
        """Compute a piece, and write nothing; meanwhile make what the piece of number `ahead`, the next, needs."""

    def write(self, solved: Any) -> dict[str, Any]:
        """Write what `solve` returned, and return its report."""


BuildSolver = Callable[[Job, int, str], Solver]  # of a job, a number of cores, and "cpu" or "cuda"


class TimedSolver:
    """Wraps a solver: `solve` adds its seconds to the result, `write` adds seconds and memory to the report.

    Args:
        solver: solver of blocks or of semi-discrete problems.
    """

    def __init__(self, solver: Solver) -> None:
        self.solver, self.start_bytes = solver, peak_bytes()

    def solve(self, number: int, ahead: int | None = None) -> tuple[Any, float]:
        """Return what the solver found and the seconds it took; see `Solver.solve`."""
        started = time.monotonic()
        try:
            return self.solver.solve(number, ahead), time.monotonic() - started
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise JobError(
                f"block {number}: out of memory{self._what_fits(error)} ({' '.join(str(error).split())[:200]}); "
                "finished blocks are kept: lower coupling.n, give the actors more memory, or share a block by "
                "cluster.actors_per_block"
            ) from error

    def _what_fits(self, error: Exception) -> str:
        """Tell the sizes of a block that a GPU could not hold, and of one that it holds; nothing on a CPU."""
        import torch

        if not isinstance(error, torch.OutOfMemoryError):
            return ""
        job, memory = self.solver.job, gpu_bytes()
        if job.config.coupling.method != "sinkhorn":
            return f" of a GPU with {memory / 1e9:.3g} GB"
        blocks, d, team = job.blocks, job.space.map.dim, job.config.cluster.actors_per_block
        need, fits = block_bytes(blocks.n, blocks.m, d, team), largest_block(memory, d, team)
        return (
            f" of a GPU with {memory / 1e9:.3g} GB at n={blocks.n}, m={blocks.m}, d={d}, which takes about "
            f"{need / 1e9:.3g} GB; about n=m={fits} would fit"
        )

    def write(self, solved: tuple[Any, float]) -> dict[str, Any]:
        """Write what `solve` returned; return the report with its seconds and the bytes of this process's memory.

        `start_bytes` and `peak_bytes` are what it took on the host, `gpu_bytes` what its GPU has, 0 without one.
        """
        found, seconds = solved
        started = time.monotonic()
        return {
            **self.solver.write(found),
            "solve_seconds": seconds,
            "write_seconds": time.monotonic() - started,
            "start_bytes": self.start_bytes,
            "peak_bytes": peak_bytes(),
            "gpu_bytes": gpu_bytes() if self.solver.device == "cuda" else 0,
        }


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed: on a GPU torch has an error for it, on the CPU a text."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def peak_bytes() -> int:
    """Return the peak memory of this process on the CPU, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
