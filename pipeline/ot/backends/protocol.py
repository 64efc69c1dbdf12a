"""The protocol of backends, which reduce a kernel's logits to vectors; torch tiles serve every problem.

A backend is given logits (a kernel at some gamma and eps) and a team that shares the rows, and has three operations:
the pass, whose log-sums, marginal and entropies are all that potentials, transport cost and entropy need; the most
likely column of each row; and a draw from each row. pipeline/ot/backends/choose.py chooses the backend of a problem.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.partners import inverse_cdf
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep, sweep
from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team
from flowpairs.pipeline.ot.tiles.tiling import TileRun, Workers

T = TypeVar("T")


@runtime_checkable
class Backend(Protocol):
    """The reductions of logits over their columns.

    Attributes:
        foretells: whether a pass is cheaper where the rows' log-sums are foretold.
    """

    foretells: bool

    def sweep(
        self,
        logits: Logits,
        gamma: Float[Tensor, " m"],
        a: Float[Tensor, " n"],
        share: RowPartition,
        workers: Workers,
        *,
        keep: int | None = None,
        entropies: bool = False,
        marginal: bool = True,
        foretold: Float[Tensor, " n"] | None = None,
    ) -> Sweep:
        """Make one pass; see `flowpairs.pipeline.ot.sinkhorn.sweep.sweep`.

        With log-sums that are foretold, to some rows' masses `Sweep.masses` may be given in place of `a`.
        """

    def argmax(self, logits: Logits, team: Team = SINGLE) -> Int[Tensor, " n"]:
        """Find the column of each row's largest logit, the first where several are."""

    def draw(self, logits: Logits, u: Float[Tensor, " n"], team: Team = SINGLE) -> Int[Tensor, " n"]:
        """Draw a column per row, by the inverse distribution function at u; see `inverse_cdf.categorical`."""


class TorchTiles:
    """A `Backend` for any cost, any device, float32 and float64. Rows are whole in its tiles; nothing is foretold."""

    foretells = False

    def sweep(
        self,
        logits: Logits,
        gamma: Float[Tensor, " m"],
        a: Float[Tensor, " n"],
        share: RowPartition,
        workers: Workers,
        *,
        keep: int | None = None,
        entropies: bool = False,
        marginal: bool = True,
        foretold: Float[Tensor, " n"] | None = None,
    ) -> Sweep:
        """See `Backend.sweep`."""
        return sweep(logits, gamma, a, share, workers, keep=keep, entropies=entropies, marginal=marginal)

    def argmax(self, logits: Logits, team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.argmax`."""
        share = RowPartition(logits.n, logits.m, logits.device, team)
        best = torch.zeros(logits.n, dtype=torch.int64, device=logits.device)

        def work(group: TileRun) -> None:
            buffer = workers.room(0, group[0].stop - group[0].start, logits.m, logits.empty)
            for rows in group:
                best[rows] = logits.tile(rows, buffer).argmax(1)

        with Workers(logits.device) as workers:
            list(workers.map(work, share.groups()))
        return share.gather(best)

    def draw(self, logits: Logits, u: Float[Tensor, " n"], team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.draw`."""
        return inverse_cdf.categorical(logits, u, team)


TORCH = TorchTiles()


class Timed:
    """A `Backend` that adds up the seconds which another one takes over the n x m entries.

    Args:
        backend: the one that does the work.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend, self.seconds, self.foretells = backend, 0.0, backend.foretells

    def sweep(self, *args: Any, **options: Any) -> Sweep:
        """See `Backend.sweep`."""
        return self.time(self.backend.sweep, *args, **options)

    def argmax(self, *args: Any) -> Int[Tensor, " n"]:
        """See `Backend.argmax`."""
        return self.time(self.backend.argmax, *args)

    def draw(self, *args: Any) -> Int[Tensor, " n"]:
        """See `Backend.draw`."""
        return self.time(self.backend.draw, *args)

    def time(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call `work` and add the seconds until its device is done."""
        started = time.perf_counter()
        try:
            return work(*args, **options)
        finally:
            if any(isinstance(given, Logits) and given.device.type == "cuda" for given in args):
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - started
