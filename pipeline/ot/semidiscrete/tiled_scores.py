"""The scores of points with this process's targets in torch, a tile that stays in a core's cache at a time."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from flowpairs.pipeline.ot.semidiscrete.entry_buffer import Found
from flowpairs.pipeline.ot.semidiscrete.point_scores import Given
from flowpairs.pipeline.ot.semidiscrete.targets import Targets
from flowpairs.pipeline.ot.tiles.kernel import LOG2E
from flowpairs.pipeline.ot.tiles.ordered_sums import add_by_index
from flowpairs.pipeline.ot.tiles.partition import power_of_two
from flowpairs.pipeline.ot.tiles.tiling import GPU_ENTRIES, Workers

BATCH_POINTS, CHUNK = 1024, 512  # points between two exchanges on a CPU, and points per tile
ROOM, FEW = 2**27, 16  # largest number of scores that all members keep between those, and what batches are multiples of
TILE = 1024  # targets per tile
LINE = 16  # float32 numbers of a cache line, at whose start tiles begin


class Tile:
    """Some targets of a section, their part of the scores, and their sums so far."""

    def __init__(self, section: int, columns: slice, right: Float[Tensor, "w k"], small: float) -> None:
        self.section, self.columns, self.right, self.width, self.small = section, columns, right, len(right), small
        self.masses = torch.zeros(self.width, dtype=torch.float64, device=right.device)
        self.squares, self.hits = torch.zeros_like(self.masses), torch.zeros_like(self.masses, dtype=torch.int64)

    def score(self, left: Float[Tensor, "r k"], room: Float[Tensor, "r w"]) -> tuple[Tensor, Tensor]:
        """Fill `room` with 2^(score - top); return each row's top and sum."""
        tops, sums = left.new_empty(len(left)), left.new_empty(len(left))
        for low in range(0, len(left), CHUNK):
            rows = slice(low, low + CHUNK)
            scores = torch.mm(left[rows], self.right.T, out=room[rows])
            torch.amax(scores, 1, out=tops[rows])
            sums[rows] = scores.sub_(tops[rows, None]).exp2_().sum(1)
        return tops, sums

    def get(
        self, weights: Float[Tensor, "r w"], scale: Float[Tensor, " r"], won: Int[Tensor, " k"], start: int
    ) -> list[Found]:
        """Add what the batch's points, the first of which is number `start`, give to these targets; return entries.

        Args:
            weights: weights as `score` left them.
            scale: factors that turn them into probabilities.
            won: rows whose largest score of all is in this tile.
            start: number of the first row.
        """
        if len(won):
            self.hits += torch.bincount(weights[won].argmax(1), minlength=self.width)
        found = []
        for low in range(0, len(weights), CHUNK):
            part, factor = weights[low : low + CHUNK], scale[low : low + CHUNK]
            self.masses += part.T @ factor
            rows = (factor >= self.small).nonzero()[:, 0]  # no other row can have an entry as large
            where = _at_least(part[rows], self.small / factor[rows])
            row, column = rows[where // self.width], where % self.width
            shares = part[row, column] * factor[row]
            add_by_index(self.squares, column, shares.double().square_())
            found.append((column + self.columns.start, row + start + low, shares))
        return found


def _at_least(values: Float[Tensor, "r w"], bounds: Float[Tensor, " r"]) -> Int[Tensor, " k"]:
    """Find where values reach their row's bound, as flat positions; on a CPU numpy is much faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() >= bounds.numpy()[:, None]))
    return (values >= bounds[:, None]).view(-1).nonzero()[:, 0]


class TiledScores:
    """`Scores` that are all kept between the two looks.

    Args:
        targets: data of the problem.
        g: potential, in units of the cost [N].
        eps: absolute epsilon.
        small: least probability of an entry.
        points: number of points of the pass.
    """

    def __init__(self, targets: Targets, g: Float[Tensor, " N"], eps: float, small: float, points: int) -> None:
        self.batch, self._count = min(points, _batch(targets)), targets.count
        self._tiles, rows = _tiles(targets, g, eps, small), targets.share.rows
        self.sections = [tile.section for tile in self._tiles]
        self._before = rows.start
        self._room = torch.empty(self.batch * (rows.stop - rows.start), device=targets.device)

    def first_look(
        self, points: Float[Tensor, "r d"], prepare: Callable[[], None], workers: Workers
    ) -> tuple[Float64[Tensor, "parts r"], Float64[Tensor, "parts r"]]:
        """See `Scores.first_look`."""
        left, rows, before = torch.cat([points, points.new_ones(len(points), 1)], 1), len(points), self._before
        self._rooms = [
            self._room[rows * (t.columns.start - before) : rows * (t.columns.stop - before)].view(rows, t.width)
            for t in self._tiles
        ]

        def look(k: int) -> tuple[Tensor, Tensor] | None:
            if k < len(self._tiles):
                return self._tiles[k].score(left, self._rooms[k])
            prepare()
            return None

        seen = [found for found in workers.map(look, range(len(self._tiles) + 1)) if found is not None]
        self._tops, sums = (torch.stack(values).double() for values in zip(*seen, strict=True))
        return self._tops, sums

    def second_look(
        self, phi: Float64[Tensor, " r"], won: Bool[Tensor, "parts r"], start: int, workers: Workers
    ) -> Iterator[Found]:
        """See `Scores.second_look`."""
        scales = power_of_two(self._tops - phi).float()

        def look(k: int) -> list[Found]:
            return self._tiles[k].get(self._rooms[k], scales[k], won[k].nonzero()[:, 0], start)

        for entries in workers.map(look, range(len(self._tiles))):
            yield from entries

    def given(self) -> Given:
        """See `Scores.given`."""
        masses = self._tops.new_zeros(self._count)
        squares, hits = torch.zeros_like(masses), torch.zeros_like(masses)
        for tile in self._tiles:
            masses[tile.columns], squares[tile.columns], hits[tile.columns] = tile.masses, tile.squares, tile.hits
        return Given(masses, squares, hits)


def _batch(targets: Targets) -> int:
    """Choose how many points are compared with the data at a time; it must not depend on a member's share of them."""
    if targets.device.type == "cpu":
        return min(BATCH_POINTS, max(CHUNK // 8, ROOM // targets.count // FEW * FEW))
    return max(CHUNK, GPU_ENTRIES // targets.count // CHUNK * CHUNK)


def _tiles(targets: Targets, g: Float[Tensor, " N"], eps: float, small: float) -> list[Tile]:
    """Cut this process's targets into tiles, ready for products with points that have a 1 appended."""
    scale, width, spans = LOG2E / eps, targets.dim + 1, list[tuple[int, int, int]]()
    gamma = g * scale + targets.b.log2()
    for k in targets.share.mine:
        section = targets.share.sections[k]
        pieces = -(-(section.stop - section.start) // TILE)
        cuts = [section.start + (section.stop - section.start) * piece // pieces for piece in range(pieces + 1)]
        spans += [(k, low, high) for low, high in pairwise(cuts)]
    sizes = [-(-(high - low) * width // LINE) * LINE for _, low, high in spans]
    rights = gamma.new_empty(sum(sizes), dtype=torch.float32).split(sizes)  # one memory, which is freed as a whole
    out = []
    for (k, low, high), memory in zip(spans, rights, strict=True):
        right = memory[: (high - low) * width].view(high - low, width)
        torch.cat([targets.rows(slice(low, high)) * scale, gamma[low:high, None]], 1, out=right)
        out.append(Tile(k, slice(low, high), right, small))
    return out
