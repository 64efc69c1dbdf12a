"""Searches among data by float32 scores, which say how far rounding may have moved them: by torch, or by kernels.

A score is <x, y_j> times a scale plus a number of the datum.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from flowpairs.pipeline.ot.backends.fused.fused_logits import FusedLogits, tile_shape
from flowpairs.pipeline.ot.backends.fused.halves import halved
from flowpairs.pipeline.ot.tiles.centred_points import CentredPoints, slabs_of
from flowpairs.pipeline.ot.tiles.kernel import NEVER
from flowpairs.pipeline.ot.tiles.tiling import GPU_ENTRIES, Workers

TILE, GROUP = 2048, 128  # data per tile, and per group of which the largest score is recorded
ROWS = 512  # points per tile
BATCH = 2**16  # points of a launch
UNIT = 2.0**-24  # rounding unit of float32
CERTAIN = 8.0  # times sqrt(d) UNIT |x| |y|: a rounding error this large has a chance of 1e-13 (Higham and Mary 2019)
SUMS = 4e-6  # largest relative error of float32's exponentials and their sums
FEWEST = 2.0**-38  # of the largest number of an array, below which halves have no digits


@runtime_checkable
class Search(Protocol):
    """Data to be searched.

    Attributes:
        size: largest number of points in a call.
    """

    size: int

    def rounding(self, x: Float64[Tensor, "r d"], unit: float) -> Float64[Tensor, " r"]:
        """Bound the rounding error of scores that are computed in a precision, one sum after the other."""

    def error(self, x: Float64[Tensor, "r d"]) -> Float64[Tensor, " r"]:
        """Bound the rounding error of the points' scores."""

    def largest(self, x: Float64[Tensor, "r d"], workers: Workers) -> tuple[Int64[Tensor, " r"], Float[Tensor, " r"]]:
        """Find the datum of each point's largest score, and by how much it leads."""

    def near(
        self, x: Float64[Tensor, "r d"], margin: Float64[Tensor, " r"], workers: Workers
    ) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        """List points and data of which the score is at most the point's margin below its largest."""

    def draw(
        self, x: Float64[Tensor, "r d"], u: Float64[Tensor, " r"], workers: Workers
    ) -> tuple[Int64[Tensor, " r"], Float64[Tensor, " r"], float]:
        """Find the datum that each u falls on, with probabilities proportional to 2^score.

        Returns:
            The data; how far each u is from the next datum; and how far sums, apart from the scores, may be wrong.
        """


class Sizes:
    """How large the numbers are of which scores are made.

    Args:
        y: data [N, d].
        gamma: their numbers [N].
        scale: what products are multiplied with.
    """

    def __init__(self, y: CentredPoints, gamma: Float64[Tensor, " N"], scale: float) -> None:
        self._longest = max(y[rows].norm(dim=1).max().item() for rows in slabs_of(y)) * scale
        self._highest = gamma.abs().max().item()

    def rounding(self, x: Float64[Tensor, "r d"], unit: float) -> Float64[Tensor, " r"]:
        """See `Search.rounding`."""
        return CERTAIN * unit * math.sqrt(x.shape[1] + 1) * (x.norm(dim=1) * self._longest + self._highest)


class TiledSearch(Sizes):
    """A `Search` in torch, a tile of data at a time; arguments are those of `Sizes`."""

    def __init__(self, y: CentredPoints, gamma: Float64[Tensor, " N"], scale: float) -> None:
        super().__init__(y, gamma, scale)
        right = torch.zeros(-(-len(y) // GROUP) * GROUP, y.d + 1, device=y.device)
        right[len(y) :, -1] = NEVER
        right[: len(y), -1] = gamma
        for rows in slabs_of(y):
            right[rows, :-1] = y[rows] * scale
        self._tiles = right.split(TILE)
        self.size = ROWS if y.device.type == "cpu" else max(ROWS, GPU_ENTRIES // TILE)

    def error(self, x: Float64[Tensor, "r d"]) -> Float64[Tensor, " r"]:
        """See `Search.error`."""
        return self.rounding(x, UNIT)

    def largest(self, x: Float64[Tensor, "r d"], workers: Workers) -> tuple[Int64[Tensor, " r"], Float[Tensor, " r"]]:
        """See `Search.largest`.

        The maximum of a whole row is quick and its position is not; so maxima are taken over groups of data, and only
        the group with the largest is kept and searched.
        """
        left = _with_one(x)
        best = runner = left.new_full((len(x),), -math.inf)
        group, found = left.new_empty(len(x), GROUP), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for number, tile in enumerate(self._tiles):
            scores = self._score(left, tile, workers).view(len(x), -1, GROUP)
            heads = scores.amax(2)
            top, where = heads.max(1)
            second = heads.scatter_(1, where[:, None], -math.inf).amax(1)
            runner = runner.maximum(second).maximum(top.minimum(best))
            new = (top > best).nonzero()[:, 0]
            group[new] = scores[new, where[new]]
            found[new] = number * TILE + where[new] * GROUP
            best = best.maximum(top)
        best, position = group.max(1)  # now with its position, which the next line leaves out
        runner = runner.maximum(group.scatter_(1, position[:, None], -math.inf).amax(1))
        return found + position, best - runner

    def near(
        self, x: Float64[Tensor, "r d"], margin: Float64[Tensor, " r"], workers: Workers
    ) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        """See `Search.near`."""
        left = _with_one(x)
        best, found = left.new_full((len(x),), -math.inf).double(), []
        for number, tile in enumerate(self._tiles):
            scores = self._score(left, tile, workers)
            best = best.maximum(scores.amax(1))
            row, column = (scores >= (best - margin)[:, None]).nonzero().T
            found.append((row, column + number * TILE, scores[row, column]))
        row, datum, score = (torch.cat(parts) for parts in zip(*found, strict=True))
        near = score >= (best - margin)[row]
        return row[near], datum[near]

    def draw(
        self, x: Float64[Tensor, "r d"], u: Float64[Tensor, " r"], workers: Workers
    ) -> tuple[Int64[Tensor, " r"], Float64[Tensor, " r"], float]:
        """See `Search.draw`: by tiles, and then in one."""
        left = _with_one(x)
        tops, sums = left.new_empty(len(self._tiles), len(x)), left.new_empty(len(self._tiles), len(x))
        for number, tile in enumerate(self._tiles):
            scores = self._score(left, tile, workers)
            torch.amax(scores, 1, out=tops[number])
            sums[number] = scores.sub_(tops[number][:, None]).exp2_().sum(1)
        top = tops.amax(0)
        cumulative = (sums.double() * (tops - top).double().exp2()).cumsum(0)
        total, aim = cumulative[-1], u * cumulative[-1]
        tile_of = (cumulative <= aim).sum(0).clamp(max=len(cumulative) - 1)
        found, gap = torch.zeros_like(tile_of), torch.zeros_like(aim)
        for number in tile_of.unique().tolist():
            rows = (tile_of == number).nonzero()[:, 0]
            weights = self._score(left[rows], self._tiles[number], workers).sub_(top[rows, None]).exp2_().double()
            before = cumulative[number - 1, rows] if number else torch.zeros_like(aim[rows])
            position, gap[rows] = _inside(weights, before, aim[rows])
            found[rows] = number * TILE + position
        return found, gap / total, SUMS

    def _score(self, left: Float[Tensor, "r k"], tile: Float[Tensor, "w k"], workers: Workers) -> Float[Tensor, "r w"]:
        """Compute float32 scores in this thread's buffer."""
        return torch.mm(left, tile.T, out=workers.room(0, len(left), len(tile), left.new_empty))


class FusedSearch(Sizes):
    """A `Search` by the fused kernels, which keep no score in memory; arguments are those of `Sizes`."""

    size = BATCH

    def __init__(self, y: CentredPoints, gamma: Float64[Tensor, " N"], scale: float) -> None:
        super().__init__(y, gamma, scale)
        shape = tile_shape(y.device)
        assert shape is not None
        self._shape, self._step, self._gamma, self._scale = shape, shape.step(y.d), gamma, scale
        self._right = halved(y, self._step)

    def error(self, x: Float64[Tensor, "r d"]) -> Float64[Tensor, " r"]:
        """See `Search.error`; tensor cores may cut off digits in each of their sums, all to one side."""
        products = 3 * self._right.high.shape[1] + 16
        lengths = x.norm(dim=1) * products + (x.shape[1] ** 0.5 * FEWEST / UNIT) * x.abs().max()
        return 2 * UNIT * (lengths * self._longest + 4 * self._highest)

    def largest(self, x: Float64[Tensor, "r d"], workers: Workers) -> tuple[Int64[Tensor, " r"], Float[Tensor, " r"]]:
        """See `Search.largest`."""
        datum, best, runner = self._logits(x).largest(slice(0, len(x)))
        return datum, best - runner

    def near(
        self, x: Float64[Tensor, "r d"], margin: Float64[Tensor, " r"], workers: Workers
    ) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
        """See `Search.near`."""
        logits, every = self._logits(x), slice(0, len(x))
        top, _ = logits.log_sums(every)
        best = top.amax(1)
        # Less a reference a score is rounded once more.
        bound = (-margin - 4 * UNIT * best.abs()).float()
        seen = logits.sweep(every, best, torch.zeros_like(best), bound)
        row, datum, _ = logits.listed(best, 0, seen.tiles, bound)
        return row, datum

    def draw(
        self, x: Float64[Tensor, "r d"], u: Float64[Tensor, " r"], workers: Workers
    ) -> tuple[Int64[Tensor, " r"], Float64[Tensor, " r"], float]:
        """See `Search.draw`: by chunks, and then in one."""
        logits = self._logits(x)
        top, rest = logits.log_sums(slice(0, len(x)))
        ref = top.amax(1)
        cumulative = (rest.double() * (top - ref[:, None]).double().exp2()).cumsum(1)
        aim = u * cumulative[:, -1]
        chunk = (cumulative <= aim[:, None]).sum(1).clamp(max=logits.chunks - 1)
        before = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, chunk[:, None])[:, 0]
        found, gap = torch.zeros_like(chunk), torch.zeros_like(aim)
        for rows in torch.arange(len(x), device=x.device).split(logits.rows_of_chunks):
            weights = logits.chunk(ref, rows, chunk[rows]).exp2().double()
            position, gap[rows] = _inside(weights, before[rows], aim[rows])
            found[rows] = chunk[rows] * logits.width + position
        return found, gap / cumulative[:, -1], 2 * UNIT * (logits.chunk_tiles + self._shape.columns)

    def _logits(self, x: Float64[Tensor, "r d"]) -> FusedLogits:
        return FusedLogits(halved(x, self._step, self._scale), self._right, self._gamma, self._shape)


def _inside(
    weights: Float64[Tensor, "r w"], before: Float64[Tensor, " r"], aim: Float64[Tensor, " r"]
) -> tuple[Int64[Tensor, " r"], Float64[Tensor, " r"]]:
    """Find the weight that each aim falls on, and how far it is from the next; `before` is what precedes the first."""
    inside = torch.cat([before[:, None], before[:, None] + weights.cumsum(1)], 1)
    position = (torch.searchsorted(inside, aim[:, None], right=True) - 1).clamp(0, weights.shape[1] - 1)
    low, high = inside.gather(1, position)[:, 0], inside.gather(1, position + 1)[:, 0]
    return position[:, 0], (aim - low).minimum(high - aim)


def _with_one(x: Float64[Tensor, "r d"]) -> Float[Tensor, "r k"]:
    return torch.cat([x, x.new_ones(len(x), 1)], 1).float()
