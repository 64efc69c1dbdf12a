"""One pass of source points over all targets: the mass of each target, and the largest probabilities.

Points come in batches. A member of the team computes the scores of a batch with its own targets, a tile at a time. The
members exchange a maximum and a log-sum per section and point, so that all know every point's normaliser; then each
member sums the masses of its own targets. Scores are base-2 logits, for the reason given in
pipeline/ot/tiles/kernel.py. What a tile finds goes into one array per process, which holds up to 1 / small entries a
point; beside it a pass needs ROOM numbers, whatever the number of targets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from flowpairs.pipeline.ot.semidiscrete.neighbourhood import Neighbourhood, Seen
from flowpairs.pipeline.ot.semidiscrete.targets import PointSource, Targets
from flowpairs.pipeline.ot.sinkhorn.sweep import Entries
from flowpairs.pipeline.ot.tiles.kernel import LOG2E
from flowpairs.pipeline.ot.tiles.partition import UNIT, power_of_two, to_fixed_point
from flowpairs.pipeline.ot.tiles.tiling import Workers

ROOM, GPU_ROOM = 2**27, 2**29  # scores of a batch
FEWEST, MOST = 64, 1024  # points of a batch, between two exchanges
CHUNK, GPU_CHUNK = 512, MOST  # most points of a tile
ENTRIES, GPU_ENTRIES = 2**19, 2**25  # scores of a tile: a core's cache, and enough to hide the calls of a GPU


@dataclass(frozen=True)
class Shares:
    """What the targets got of the points, at one eps; a process fills in only its own targets.

    Attributes:
        masses: mean probability of each target over the points [N].
        squares: sum of the squared probabilities, without those that are not kept [N].
        missed: estimate of the mean probability that a point gives to targets that are not counted.
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
        wanted: their shares at the wanted eps, of points in the same neighbourhoods.
        entries: i target, j point, logits log2 of the probability of j among the points of i; sorted by i.
        compared: number of entries of at least `small`, of which `entries` are those of at least `keep`.
    """

    points: int
    soft: Shares
    wanted: Shares
    entries: Entries
    compared: int


class Found:
    """Entries that were found so far, in arrays that grow by doubling."""

    def __init__(self, device: torch.device) -> None:
        self.count = 0
        self._rooms = [torch.empty(0, dtype=kind, device=device) for kind in (torch.int32, torch.int32, torch.float32)]

    def add(self, *parts: Tensor) -> None:
        """Append targets, points and shares."""
        stop = self.count + len(parts[0])
        for k, part in enumerate(parts):
            if stop > len(self._rooms[k]):
                larger = self._rooms[k].new_empty(max(stop, 2 * len(self._rooms[k])))
                larger[: self.count] = self._rooms[k][: self.count]
                self._rooms[k] = larger
            self._rooms[k][self.count : stop] = part
        self.count = stop

    def by_target(self) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
        """Take out all targets, points and shares, sorted by target and then by point."""
        i, j, share = (room[: self.count] for room in self._rooms)
        self._rooms = []
        i, order = i.sort(stable=True)
        return i, j[order], share[order]


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
    spread: float = 0.0,
    keep: float = 0.0,
) -> PointPass:
    """Pass points `first` to `first + points` of the source over all targets.

    Args:
        targets: data of the problem.
        source: source of the problem.
        first: number of the first point.
        points: number of points.
        g: potential, float64 [N], in units of the cost; only this process's targets matter.
        eps: absolute epsilon, positive.
        small: smallest probability of the entries that are looked at one by one, hence at most 1 / small of them per
            point.
        workers: the threads.
        wanted: eps of the shares that decide, at most `eps`; 0 for the cells. Scores stay as they are, so that in terms
            of the potential (eps - wanted) log b is added to g. Where it is smaller, these shares are means over a
            neighbourhood of each point (pipeline/ot/semidiscrete/neighbourhood.py).
        spread: standard deviation of that neighbourhood, below 1.
        keep: smallest probability of the entries that are returned, where that is above `small`.
    """
    device, team = targets.own.device, targets.share.team
    cpu = device.type == "cpu"
    size = min(MOST, max(FEWEST, 2 ** ((ROOM if cpu else GPU_ROOM) // targets.count).bit_length() // 2))
    chunk, entries = (min(size, CHUNK), ENTRIES) if cpu else (min(size, GPU_CHUNK), GPU_ENTRIES)
    tiles = _tiles(targets, g, eps, small, chunk, entries, points)
    room = torch.empty(min(size, points) * len(targets.own), device=device)
    near = Neighbourhood(targets, source, eps, wanted, spread, points, workers) if wanted < eps else None
    columns, made = [tile.columns for tile in tiles], []

    def make(start: int) -> None:
        """Make this member's part of a batch's points."""
        stop = min(start + size, points)
        low, high = (start + (stop - start) * k // team.size for k in (team.rank, team.rank + 1))
        batch = torch.zeros(stop - start, targets.dim)
        if high > low:
            batch[low - start : high - start] = source.points(first + low, high - low)
        made.append(batch)

    found, compared = Found(device), 0
    make(0)
    for start in range(0, points, size):
        batch, after = team.sum(made.pop().to(device)), start + size

        def prepare(after: int = after) -> None:
            if after < points:
                make(after)

        if near is not None:
            near.centre(batch)
        seen, phi = _pass_batch(targets, tiles, batch, room, prepare, workers)
        if near is not None:
            near.look([tile.right for tile in tiles], columns, seen, first, start, batch, phi)
        for tile, (column, row, share) in zip(tiles, seen, strict=True):
            compared += len(share)
            large = share >= keep
            found.add(column[large] + tile.columns.start, row[large] + start, share[large])
    p, squares = torch.zeros_like(targets.b), torch.zeros_like(targets.b)
    for tile in tiles:
        p[tile.columns], squares[tile.columns] = tile.masses / points, tile.squares.double() / UNIT * points
    i, j, share = found.by_target()
    logits = (share.double() / (points * p[i.long()])).log2()
    soft = Shares(p, squares)
    wanted_shares = soft if near is None else Shares(*near.shares())
    return PointPass(points, soft, wanted_shares, Entries(i, j, logits), compared)


class Tile:
    """Some targets of a section, their part of the scores, and their sums so far."""

    def __init__(
        self, section: int, columns: slice, right: Float[Tensor, "w k"], small: float, rows: int, points: int
    ) -> None:
        self.section, self.columns, self.right, self.width, self.small = section, columns, right, len(right), small
        self.rows, self.points = rows, points
        self.masses = torch.zeros(self.width, dtype=torch.float64, device=right.device)
        self.squares = torch.zeros_like(self.masses, dtype=torch.int64)  # over the points, in fixed point

    def score(self, left: Float[Tensor, "r k"], room: Float[Tensor, "r w"]) -> tuple[Tensor, Tensor]:
        """Fill `room` with 2^(score - top); return each row's top and sum."""
        tops, sums = left.new_empty(len(left)), left.new_empty(len(left))
        for low in range(0, len(left), self.rows):
            rows = slice(low, low + self.rows)
            scores = torch.mm(left[rows], self.right.T, out=room[rows])
            torch.amax(scores, 1, out=tops[rows])
            sums[rows] = scores.sub_(tops[rows, None]).exp2_().sum(1)
        return tops, sums

    def get(self, weights: Float[Tensor, "r w"], scale: Float[Tensor, " r"]) -> Seen:
        """Add what the batch's points give to these targets; return the columns, rows and shares worth keeping.

        Args:
            weights: weights as `score` left them.
            scale: factors that turn them into probabilities.
        """
        found = []
        for low in range(0, len(weights), self.rows):
            part, factor = weights[low : low + self.rows], scale[low : low + self.rows]
            self.masses += part.T @ factor
            rows = (factor >= self.small).nonzero()[:, 0]  # no other row can have an entry as large
            where = _at_least(part[rows], self.small / factor[rows])
            row, column = rows[where // self.width], where % self.width
            shares = part[row, column] * factor[row]
            self.squares.index_add_(0, column, to_fixed_point(shares.double().square_() / self.points))
            found.append((column, row + low, shares))
        column, row, shares = (torch.cat(parts) for parts in zip(*found, strict=True))
        return column, row, shares


def _at_least(values: Float[Tensor, "r w"], bounds: Float[Tensor, " r"]) -> Int[Tensor, " k"]:
    """Find where values reach their row's bound, as flat positions; on a CPU numpy is much faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() >= bounds.numpy()[:, None]))
    return (values >= bounds[:, None]).view(-1).nonzero()[:, 0]


def _tiles(
    targets: Targets, g: Float[Tensor, " N"], eps: float, small: float, rows: int, entries: int, points: int
) -> list[Tile]:
    """Cut this process's targets into tiles, ready for products with points that have a 1 appended."""
    scale, out = LOG2E / eps, []
    gamma = g * scale + targets.b.log2()
    for k in targets.share.mine:
        section = targets.share.sections[k]
        pieces = -(-(section.stop - section.start) * rows // entries)
        cuts = [section.start + (section.stop - section.start) * piece // pieces for piece in range(pieces + 1)]
        for low, high in pairwise(cuts):
            here = slice(low - targets.share.rows.start, high - targets.share.rows.start)
            right = torch.cat([targets.own[here] * scale, gamma[low:high, None]], 1)
            out.append(Tile(k, slice(low, high), right.float(), small, rows, points))
    return out


def _pass_batch(
    targets: Targets,
    tiles: list[Tile],
    points: Float[Tensor, "r d"],
    room: Float[Tensor, " room"],
    prepare: Callable[[], None],
    workers: Workers,
) -> tuple[list[Seen], Float64[Tensor, " r"]]:
    """Pass a batch over this process's tiles, while `prepare` makes the next one; return what each keeps and phi."""
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
    phi = _settle(targets, [tile.section for tile in tiles], tops, sums)
    scales = power_of_two(tops - phi).float()
    return list(workers.map(lambda k: tiles[k].get(rooms[k], scales[k]), range(len(tiles)))), phi


def _settle(
    targets: Targets, section: list[int], tops: Float[Tensor, "tiles r"], sums: Float[Tensor, "tiles r"]
) -> Float64[Tensor, " r"]:
    """Compute the points' log-sums over all targets: the members exchange a maximum and a log-sum per section."""
    share = targets.share
    stack = tops.new_zeros(2, len(share.sections), tops.shape[1])
    start = 0
    for k in share.mine:
        tiles = slice(start, start + section.count(k))
        start = tiles.stop
        stack[0, k] = top = tops[tiles].amax(0)
        stack[1, k] = top + (sums[tiles] * (tops[tiles] - top).exp2()).sum(0).log2()
    best, log_sums = share.team.sum(stack)
    top = best.amax(0)
    return top + (log_sums - top).exp2().sum(0).log2()
