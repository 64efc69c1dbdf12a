"""One pass of source points over all targets: the mass of each target, and the largest probabilities.

Points come in batches, of which each member of the team makes a part. A member computes the scores of a batch with its
own targets, a tile at a time. The members exchange a maximum and a log-sum per section and point, so that all know
every point's normaliser; then each member sums the masses of its own targets. Scores are base-2 logits, for the reason
given in pipeline/ot/tiles/kernel.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from flowpairs.pipeline.ot.semidiscrete.entry_buffer import EntryBuffer, Found
from flowpairs.pipeline.ot.semidiscrete.targets import PointSource, Targets
from flowpairs.pipeline.ot.sinkhorn.sweep import Entries
from flowpairs.pipeline.ot.tiles.kernel import LOG2E
from flowpairs.pipeline.ot.tiles.ordered_sums import add_by_index
from flowpairs.pipeline.ot.tiles.partition import UNIT, power_of_two, to_fixed_point
from flowpairs.pipeline.ot.tiles.tiling import GPU_ENTRIES, Workers

BATCH_POINTS, CHUNK = 1024, 512  # points between two exchanges on a CPU, and points per tile
ROOM, FEW = 2**27, 16  # largest number of scores that all members keep between those, and what batches are multiples of
TILE = 1024  # targets per tile, which stays in a core's cache
LINE = 16  # float32 numbers of a cache line, at whose start tiles begin


@dataclass(frozen=True)
class Shares:
    """What the targets got of the points, at one eps; a process fills in only its own targets.

    Attributes:
        masses: mean probability of each target over the points [N].
        squares: sum of the squared probabilities, without those that are not kept [N].
        missed: bound on the mean probability that a point gives to targets that are not counted.
    """

    masses: Float[Tensor, " N"]
    squares: Float[Tensor, " N"]
    missed: float = 0.0


@dataclass(frozen=True)
class PointPass:
    """The result of a pass.

    Attributes:
        points: number of points.
        soft: the targets' shares at the eps of the pass.
        wanted: their shares at the wanted eps, of the same scores.
        entries: i target, j point, logits log2 of the probability of j among the points of i; sorted by i.
    """

    points: int
    soft: Shares
    wanted: Shares
    entries: Entries


def point_pass(
    targets: Targets,
    source: PointSource,
    first: int,
    points: int,
    g: Float[Tensor, " N"],
    eps: float,
    small: float,
    workers: Workers,
    wanted: float,
) -> PointPass:
    """Pass points `first` to `first + points` of the source over all targets.

    Args:
        targets: data of the problem.
        source: source of the problem.
        first: number of the first point.
        points: number of points.
        g: potential, float64 [N], in units of the cost; only this process's targets matter.
        eps: absolute epsilon, positive.
        small: smallest probability of the entries that are kept one by one, hence at most 1 / small of them per point.
        workers: the threads.
        wanted: eps of the shares that decide, at most `eps`; 0 for the cells. Scores stay as they are, so that in terms
            of the potential (eps - wanted) log b is added to g.
    """
    device, size = targets.device, min(points, _batch(targets))
    tiles, found = _tiles(targets, g, eps, small), EntryBuffer(device)
    rows = targets.share.rows
    room = torch.empty(size * (rows.stop - rows.start), device=device)
    # What a batch leaves goes into memory that is there: in a hole between what batches free, it would keep them apart.
    best = torch.empty(points, dtype=torch.float64, device=device)
    batches = [targets.points(source, first, size)]
    for start in range(0, points, size):
        after = range(start, points)[size : 2 * size]

        def prepare(after: range = after) -> None:
            if after:
                batches.append(targets.points(source, first + after.start, len(after)))

        best[start : start + size] = _pass_batch(targets, tiles, batches.pop(), start, room, found, prepare, workers)
    p = torch.zeros_like(targets.b)
    squares, hits = torch.zeros_like(p), torch.zeros_like(p)
    for tile in tiles:
        p[tile.columns], squares[tile.columns], hits[tile.columns] = tile.masses / points, tile.squares, tile.hits
    del room, tiles, tile  # as large as the entries, which are about to be in memory twice
    soft = decisive = Shares(p, squares)
    if wanted == 0:
        decisive = Shares(hits / points, hits)
    elif wanted < eps:
        decisive = _sharpened(targets, found, best, small, eps / wanted)
    return PointPass(points, soft, decisive, found.sorted(points * p))


def _batch(targets: Targets) -> int:
    """Choose how many points are compared with the data at a time; it must not depend on a member's share of them."""
    if targets.device.type == "cpu":
        return min(BATCH_POINTS, max(CHUNK // 8, ROOM // targets.count // FEW * FEW))
    return max(CHUNK, GPU_ENTRIES // targets.count // CHUNK * CHUNK)


def _sharpened(
    targets: Targets, found: EntryBuffer, best: Float[Tensor, " points"], small: float, sharpen: float
) -> Shares:
    """Compute the shares at 1 / sharpen times the eps of the pass, from the entries that it found.

    Entries that are not kept have probabilities below `small`, so that at the smaller eps they are nearly nothing.

    Args:
        best: the largest probability of each point, over all targets.
    """
    points = len(best)

    def weights(point: Int[Tensor, " k"], share: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        # At most 1 / count each, so that a point's weights sum to at most 1.
        return power_of_two((share.double() / best[point]).clamp(max=1.0).log2() * sharpen) / targets.count

    # In fixed point the sums are exact, hence the same for any number of members, threads and any order.
    total = best.new_zeros(points, dtype=torch.int64)
    masses, squares = (torch.zeros_like(targets.b, dtype=torch.int64) for _ in range(2))
    for _, point, share in found.runs():
        total.index_add_(0, point.long(), to_fixed_point(weights(point.long(), share)))
    sums = targets.share.masses(total)
    for target, point, share in found.runs():
        probabilities = weights(point.long(), share) / sums[point.long()]
        masses.index_add_(0, target.long(), to_fixed_point(probabilities / points))
        squares.index_add_(0, target.long(), to_fixed_point(probabilities.square() / points))
    missed = ((small / best).clamp(max=1.0) ** (sharpen - 1) / best).mean().item()
    return Shares(masses.double() / UNIT, squares.double() / UNIT * points, missed)


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


def _pass_batch(
    targets: Targets,
    tiles: list[Tile],
    points: Float[Tensor, "r d"],
    start: int,
    room: Float[Tensor, " room"],
    buffer: EntryBuffer,
    prepare: Callable[[], None],
    workers: Workers,
) -> Float64[Tensor, " r"]:
    """Pass a batch over this process's tiles, while `prepare` makes the next one; return the points' largest shares."""
    left = torch.cat([points, points.new_ones(len(points), 1)], 1)
    rows, before = len(left), targets.share.rows.start
    rooms = [
        room[rows * (t.columns.start - before) : rows * (t.columns.stop - before)].view(rows, t.width) for t in tiles
    ]

    def first_look(k: int) -> tuple[Tensor, Tensor] | None:
        if k < len(tiles):
            return tiles[k].score(left, rooms[k])
        prepare()
        return None

    seen = [found for found in workers.map(first_look, range(len(tiles) + 1)) if found is not None]
    tops, sums = (torch.stack(values).double() for values in zip(*seen, strict=True))
    phi, top, mine = _settle(targets, [tile.section for tile in tiles], tops, sums)
    scales = power_of_two(tops - phi).float()

    def second_look(k: int) -> list[Found]:
        return tiles[k].get(rooms[k], scales[k], mine[k].nonzero()[:, 0], start)

    for entries in workers.map(second_look, range(len(tiles))):
        for some in entries:
            buffer.add(some)
    return (top - phi).exp2()


def _settle(
    targets: Targets, section: list[int], tops: Float[Tensor, "tiles r"], sums: Float[Tensor, "tiles r"]
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"], Bool[Tensor, "tiles r"]]:
    """Compute the points' log-sums and largest scores over all targets, and in which of this process's tiles it is.

    The members exchange a maximum and a log-sum per section and point.
    """
    share = targets.share
    stack = tops.new_zeros(2, len(share.sections), tops.shape[1])
    for k in share.mine:
        tiles = slice(section.index(k), section.index(k) + section.count(k))
        stack[0, k] = top = tops[tiles].amax(0)
        stack[1, k] = top + (sums[tiles] * (tops[tiles] - top).exp2()).sum(0).log2()
    best, log_sums = share.team.sum(stack)
    top, winner = best.max(0)
    phi = top + (log_sums - top).exp2().sum(0).log2()
    won = (tops == top) & (torch.tensor(section, device=top.device)[:, None] == winner)
    return phi, top, won & (won.cumsum(0) == 1)
