"""The KeOps backend: reductions compiled for a cost and its number of features, which write no tile to memory.

One compiled formula serves all (pipeline/ot/backends/compiled.py): with rows as i and a chunk of columns as j it gives
the chunk's largest logit, its mass and its mean logit for each row. Over the chunks these come to log-sums, entropies,
a draw's chunk, and the chunks that hold large entries, which torch computes again. With columns as i, and rows less
their maxima as j, it gives the target marginal. Columns near in the list are near in space, so large entries are in few
chunks.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from flowpairs.pipeline.ot.backends import compiled
from flowpairs.pipeline.ot.costs.formula import Formula
from flowpairs.pipeline.ot.partners.inverse_cdf import chunk_of, first_beyond
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.sinkhorn.sweep import Entries, Sweep, deepest_kept, within_depth
from flowpairs.pipeline.ot.tiles.bands import BandMasses
from flowpairs.pipeline.ot.tiles.logits import CostLogits, InnerLogits, Logits
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team, to_fixed_point
from flowpairs.pipeline.ot.tiles.tiling import TileRun, Workers, column_groups

LN2 = math.log(2)
WIDTH = 4  # features of inner products are padded to a multiple of it, so that a formula serves several numbers of them
INNER = Formula("X | Y")
WIDEST = 512  # columns of a chunk, of which there are one or more in each group of columns
ROWS = 1024  # rows that are added up in floating point
CELLS = 2**24  # rows times chunks that are held at a time
NUMBERS = 2**24  # features of chosen entries that are held at a time


class KeOps:
    """A `Backend` for inner products and formulas, on CUDA or, through a C++ compiler, on a CPU."""

    foretells = False

    def refusal(self, problem: Problem) -> str | None:
        """Explain why it cannot serve a problem; None if it can."""
        if callable(problem.cost) and not isinstance(problem.cost, Formula):
            return "a cost given as a function needs torch tiles"
        return compiled.obstacle(problem.x0.device)

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
        terms = _terms(logits)
        top, total = torch.zeros_like(a), torch.ones_like(a)
        bits = torch.zeros_like(a) if entropies else None
        groups = None if keep is None else a.new_zeros(logits.n, terms.groups, dtype=torch.float32)
        window = None if keep is None else share.decided(deepest_kept(logits, keep))
        found: list[Entries] = []
        for runs in _slabs(share.groups(), CELLS // len(terms.starts)):
            rows = slice(runs[0][0].start, runs[-1][-1].stop)
            chunks = terms.by_chunk(rows)
            top[rows], total[rows] = chunks.top, chunks.total
            if bits is not None:
                bits[rows] = chunks.total.log2() + (chunks.top - chunks.mean) / LN2
            if keep is not None and window is not None and groups is not None:
                groups[rows] = (chunks.masses.unflatten(1, (terms.groups, -1)).sum(2) / chunks.total[:, None]).float()
                most = functools.partial(_large, terms, chunks, rows.start, window, 4 * keep, workers)
                found += workers.map(most, [tile for run in runs for tile in run])
        phi = top / LN2 + total.log2()
        pieces = [terms.marginal(piece, top, a / total) for piece in share.all_pieces()] if marginal else []
        masses = share.masses(sum(pieces, torch.zeros_like(gamma, dtype=torch.int64)))
        if keep is None:
            return Sweep(gamma, phi, masses, bits)
        entries = Entries(*(torch.cat([getattr(part, side) for part in found]) for side in ("i", "j", "logits")))
        bands = BandMasses(share)
        for own in pieces:
            bands.add(own[None])
        return Sweep(gamma, phi, masses, bits, entries, bands.masses(), groups)

    def argmax(self, logits: Logits, team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.argmax`."""

        def best(terms: "_Terms", rows: slice) -> Tensor:
            chunk = terms.by_chunk(rows).maxima.argmax(1)
            return terms.starts[chunk] + terms.entries(_numbers(rows, chunk), chunk).argmax(1)

        return _each_row(best, logits, team)

    def draw(self, logits: Logits, u: Float[Tensor, " n"], team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.draw`; torch computes the entries of the chunk that is hit."""

        def drawn(terms: "_Terms", rows: slice) -> Tensor:
            masses = terms.by_chunk(rows).masses
            chunk, aim = chunk_of(masses, u[rows])
            own = terms.entries(_numbers(rows, chunk), chunk[:, 0])
            # Relative to the chunk's own maximum and sum, since the two ways to sum differ by rounding.
            inside = (own - own.amax(1, keepdim=True)).exp().double().cumsum(1)
            aim = aim / masses.gather(1, chunk) * inside[:, -1:]
            return (terms.starts[chunk] + first_beyond(inside, aim))[:, 0]

        return _each_row(drawn, logits, team)


@dataclass(frozen=True)
class _Chunks:
    """Some rows' logits by chunks of columns, in nats.

    Attributes:
        maxima: largest logit of each row in each chunk.
        masses: mass of each chunk relative to the row's largest logit, float64.
        top: the rows' largest logits, float64.
        total: the rows' masses.
        mean: the rows' mean logits.
    """

    maxima: Float[Tensor, "r chunks"]
    masses: Float64[Tensor, "r chunks"]
    top: Float64[Tensor, " r"]
    total: Float64[Tensor, " r"]
    mean: Float64[Tensor, " r"]


@dataclass(frozen=True)
class _Terms:
    """Logits in nats as scale cost(x_i, y_j) + gamma_j."""

    cost: Formula
    x: Float[Tensor, "n k"]
    y: Float[Tensor, "m k"]
    scale: float
    gamma: Float[Tensor, " m"]

    @cached_property
    def cuts(self) -> list[int]:
        """Bounds of the chunks, equally many in each group of columns, a function of the number of columns alone."""
        cuts = column_groups(len(self.y))
        parts = -(-cuts[0].stop // WIDEST)
        starts = [cut.start + (cut.stop - cut.start) * k // parts for cut in cuts for k in range(parts)]
        return [*starts, len(self.y)]

    @property
    def groups(self) -> int:
        """Number of groups of columns."""
        return len(column_groups(len(self.y)))

    @cached_property
    def starts(self) -> Int[Tensor, " chunks"]:
        """First columns of the chunks."""
        return torch.tensor(self.cuts[:-1], device=self.y.device)

    @property
    def width(self) -> int:
        """Columns of the widest chunk."""
        return max(high - low for low, high in pairwise(self.cuts))

    @cached_property
    def turned(self) -> Formula:
        """The cost with its arguments swapped."""
        return self.cost.swapped()

    def reduce(
        self,
        cost: Formula,
        x: Float[Tensor, "r k"],
        p: Float[Tensor, " r"],
        y: Float[Tensor, "c k"],
        q: Float[Tensor, " c"],
        w: Float[Tensor, " c"],
    ) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"], Float[Tensor, " r"]]:
        """Evaluate the compiled formula; see `compiled.log_sum_formula`."""
        text, numbers = cost.compiled
        formula = compiled.log_sum_formula(text, len(numbers), x.shape[1], x.dtype, x.device.type)
        out = formula(x, y, p[:, None], q[:, None], w[:, None], x.new_tensor([self.scale, *numbers]))
        top, mass, moment = out.unbind(1)
        return top, mass, moment

    def by_chunk(self, rows: slice) -> _Chunks:
        """Reduce some rows chunk by chunk."""
        x = self.x[rows]
        zero, one = torch.zeros_like(x[:, 0]), torch.ones_like(self.gamma)
        parts = [
            self.reduce(self.cost, x, zero, self.y[low:high], self.gamma[low:high], one[low:high])
            for low, high in pairwise(self.cuts)
        ]
        maxima, masses, moments = (torch.stack(kind, 1) for kind in zip(*parts, strict=True))
        top = maxima.amax(1).double()
        share = (maxima.double() - top[:, None]).exp()
        scaled = masses.double() * share
        total = scaled.sum(1)
        return _Chunks(maxima, scaled, top, total, (moments.double() * share).sum(1) / total)

    def marginal(self, rows: slice, top: Float64[Tensor, " n"], weights: Float64[Tensor, " n"]) -> Int64[Tensor, " m"]:
        """Sum weights_i e^(logit_ij - top_i) over some rows for each column, in fixed point."""
        mass = torch.zeros_like(self.gamma, dtype=torch.int64)
        for part in (slice(start, min(rows.stop, start + ROWS)) for start in range(rows.start, rows.stop, ROWS)):
            shift, weight = (values[part].to(self.x.dtype) for values in (-top, weights))
            highest, sums, _ = self.reduce(self.turned, self.y, self.gamma, self.x[part], shift, weight)
            mass += to_fixed_point(highest.exp() * sums)
        return mass

    def entries(self, rows: Int[Tensor, " k"], chunk: Int[Tensor, " k"]) -> Float[Tensor, "k width"]:
        """Compute the logits of chosen rows in a chunk for each, -inf beyond its last column."""
        width, last = self.width, torch.tensor(self.cuts[1:], device=self.y.device) - 1
        step, out = max(1, NUMBERS // (width * self.x.shape[1])), self.x.new_empty(len(rows), width)
        for part in (slice(start, start + step) for start in range(0, len(rows), step)):
            columns = self.starts[chunk[part], None] + torch.arange(width, device=rows.device)
            inside = columns.minimum(last[chunk[part], None])
            cost = self.cost.between(self.x[rows[part], None], self.y[inside])
            logits = torch.add(self.gamma[inside], cost, alpha=self.scale)
            out[part] = logits.masked_fill_(columns > inside, -math.inf)
        return out


def _terms(logits: Logits) -> _Terms:
    """Convert logits, which are in base 2."""
    if isinstance(logits, CostLogits):
        assert isinstance(logits.cost, Formula)
        x, y = logits.x0.contiguous(), logits.x1.contiguous()
        return _Terms(logits.cost, x, y, logits.scale * LN2, logits.gamma * LN2)
    assert isinstance(logits, InnerLogits)
    room = -(logits.left.shape[1] - 1) % WIDTH
    x, y = (torch.nn.functional.pad(side[:, :-1], (0, room)).contiguous() for side in (logits.left, logits.right))
    return _Terms(INNER, x, y, LN2, logits.right[:, -1] * LN2)


def _each_row(work: Callable[[_Terms, slice], Tensor], logits: Logits, team: Team) -> Int[Tensor, " n"]:
    """Find a column for each row, some rows at a time."""
    share = RowPartition(logits.n, logits.m, logits.device, team)
    found = torch.zeros(logits.n, dtype=torch.int64, device=logits.device)
    terms = _terms(logits)
    step = max(1, CELLS // max(len(terms.starts), terms.width))
    with Workers(logits.device):
        for start in range(share.rows.start, share.rows.stop, step):
            rows = slice(start, min(share.rows.stop, start + step))
            found[rows] = work(terms, rows)
    return share.gather(found)


def _large(
    terms: _Terms, chunks: _Chunks, first: int, window: float, keep: int, workers: Workers, tile: slice
) -> Entries:
    """Find the entries of a tile that lie at most `window` bits below their row's largest, about `keep` a row at most.

    Args:
        terms: logits.
        chunks: chunks of the rows from `first`, which include those of the tile.
        first: first row of `chunks`.
        window: see `within_depth`.
        keep: entries per row at most, on average.
        workers: the threads.
        tile: rows.
    """
    own = slice(tile.start - first, tile.stop - first)
    top, total = chunks.top[own], chunks.total[own]
    # The entries at the window's end must not be lost because two ways to compute them differ by rounding.
    window += 8 * torch.finfo(terms.x.dtype).eps * (window + top.abs().max().item() / LN2)
    i, k = (chunks.maxima[own] >= (top - window * LN2)[:, None]).nonzero().unbind(1)
    below = (terms.entries(i + tile.start, k) - top[i].to(terms.x.dtype)[:, None]) / LN2
    which, inside, logit = within_depth(below, window, keep * len(top), workers)
    i, j = i[which], terms.starts[k[which]] + inside
    return Entries((i + tile.start).int(), j.int(), logit - total[i].log2().to(logit.dtype))


def _numbers(rows: slice, like: Tensor) -> Int[Tensor, " r"]:
    """Return the rows' numbers."""
    return torch.arange(rows.start, rows.stop, device=like.device)


def _slabs(runs: list[TileRun], rows: int) -> list[list[TileRun]]:
    """Group consecutive runs of tiles into about `rows` rows at a time."""
    slabs: list[list[TileRun]] = []
    for run in runs:
        if slabs and run[-1].stop - slabs[-1][0][0].start <= rows:
            slabs[-1].append(run)
        else:
            slabs.append([run])
    return slabs
