"""Partners of source points among data at a given potential: exact, tiled, and the same on any device.

At eps = 0 a point's partner is the datum of the largest g_j + <x, y_j>; at eps > 0 it is drawn with probabilities
proportional to b_j exp((g_j + <x, y_j>) / eps), by the inverse distribution function in the order of the data. Scores
are computed in float32, and a point whose partner depends on their rounding is computed again in float64. So the
partner of a point does not depend on other points, tiles, threads or devices.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.tiles.equal_rows import equal_rows
from flowpairs.pipeline.ot.tiles.kernel import LOG2E, NEVER
from flowpairs.pipeline.ot.tiles.ordered_sums import add_by_index, running_sums
from flowpairs.pipeline.ot.tiles.tiling import GPU_ENTRIES, Workers

TILE, GROUP = 2048, 128  # data per tile, and per group of which the largest score is recorded
ROWS, DOUBTFUL = 512, 2**22  # points per tile, and scores at a time in float64
UNIT, DOUBLE = 2.0**-24, 2.0**-53  # rounding units of float32 and float64
LEAST = 1e-300  # of a kind's mass
SUMS = 4e-6  # largest relative error of float32's exponentials and their sums
CERTAIN = 8.0  # times sqrt(d) UNIT |x| |y|: a rounding error this large has a chance of 1e-13 (Higham and Mary 2019)


@dataclass(frozen=True)
class Ties:
    """Data that have equal rows and potentials, so that points can only be shared out among them.

    Attributes:
        kind: the kind of each datum [N].
        members: the data, by kind [N].
        below: sum of the weights of the members before each one, and of all [N + 1].
        starts: the first member of each kind, and the end [K + 1].
        nats: entropy of a kind's weights [K].
    """

    kind: Int64[Tensor, " N"]
    members: Int64[Tensor, " N"]
    below: Float64[Tensor, " N1"]
    starts: Int64[Tensor, " K1"]
    nats: Float64[Tensor, " K"]

    @classmethod
    def of(cls, kind: Int64[Tensor, " N"], b: Float64[Tensor, " N"]) -> "Ties":
        """Collect the members of each kind."""
        members, sizes = kind.argsort(stable=True), kind.bincount()
        starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        below = torch.cat([b.new_zeros(1), running_sums(b[members])])
        mass, nats = b.new_zeros(len(sizes)), b.new_zeros(len(sizes))
        add_by_index(mass, kind, b)
        add_by_index(nats, kind, torch.special.entr(b / mass[kind].clamp(min=LEAST)))
        return cls(kind, members, below, starts, nats)

    def choose(self, kinds: Int64[Tensor, " n"], u: Float64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Choose a member of each of some kinds, in proportion to the weights."""
        low, high = self.starts[kinds], self.starts[kinds + 1]
        aim = self.below[low] + u * (self.below[high] - self.below[low])
        return self.members[(torch.searchsorted(self.below, aim, right=True) - 1).maximum(low).minimum(high - 1)]


class Assignment:
    """Finds partners among N data.

    Args:
        y: the data, float32 or float64 [N, d].
        g: potential of the data, in units of the dot-product cost [N].
        eps: absolute epsilon, 0 or more.
        b: positive weights of the data [N]; None: uniform. At eps = 0 they only share points out among equal data.
        device: "cpu" or "cuda", where to compute.

    Attributes:
        b: weights of the data, float64 [N].

    Raises:
        InputError: a potential that does not match, or an eps out of range.
    """

    def __init__(
        self,
        y: Float[Tensor, "N d"],
        g: Float[Tensor, " N"],
        eps: float,
        b: Float[Tensor, " N"] | None = None,
        device: str = "cpu",
    ) -> None:
        if g.shape != y.shape[:1] or not bool(torch.isfinite(g).all()):
            raise InputError(f"g: shape {tuple(g.shape)} for {len(y)} data; give one finite value a datum")
        if not (eps >= 0 and math.isfinite(eps)):
            raise InputError(f"eps={eps!r}: the regularisation must be finite and not negative; give 0 or more")
        self.eps, self.scale = eps, LOG2E / eps if eps > 0 else 1.0
        exact, g = y.to(device).double(), g.to(device).double()
        even = torch.full((len(y),), 1 / len(y), dtype=torch.float64)
        self.b = (even if b is None else b.double()).to(device)
        self.ties: Ties | None = None
        if eps == 0:
            first, kind = equal_rows(torch.cat([exact, g[:, None]], 1))
            if len(first) < len(y):
                self.ties, exact, g = Ties.of(kind, self.b), exact[first], g[first]
        self.y = exact - exact.mean(0)  # an offset adds the same number to all scores of a point
        self.gamma = g * self.scale
        self.log_b = None if eps == 0 or b is None else self.b.log2()
        if self.log_b is not None:
            self.gamma = self.gamma + self.log_b
        self.gamma = self.gamma - self.gamma.mean()
        right = torch.cat([self.y * self.scale, self.gamma[:, None]], 1).float()
        padding = right.new_zeros(-len(right) % GROUP, right.shape[1])
        padding[:, -1] = NEVER
        self.tiles = torch.cat([right, padding]).split(TILE)
        self.longest = self.y.norm(dim=1).max().item() * self.scale
        self.highest = self.gamma.abs().max().item()

    def partners(self, x: Float64[Tensor, "n d"], u: Float64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Find the partner of each point.

        Args:
            x: points [n, d].
            u: uniforms in [0, 1), one per point; at eps = 0 they only choose among equal data.
        """
        x, u = x.to(self.y.device), u.to(self.y.device)
        out, sure = torch.zeros_like(u, dtype=torch.int64), torch.zeros_like(u, dtype=torch.bool)
        look = self._draw if self.eps > 0 else self._largest
        size = ROWS if x.device.type == "cpu" else max(ROWS, GPU_ENTRIES // TILE)

        def work(rows: slice) -> None:
            out[rows], sure[rows] = look(x[rows], u[rows], workers)

        def decide(rows: Tensor) -> None:
            out[rows] = self._draw_exactly(x[rows], u[rows]) if self.eps > 0 else self._settle(x[rows], workers)

        with Workers(x.device) as workers:
            list(workers.map(work, [slice(low, low + size) for low in range(0, len(x), size)]))
            few = max(1, DOUBTFUL // len(self.y)) if self.eps > 0 else size
            list(workers.map(decide, (~sure).nonzero()[:, 0].split(few)))
        return out if self.ties is None else self.ties.choose(out, u)

    def worth(self, x: Float64[Tensor, "n d"], partners: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Compute g_j + <x_i, y_j> of points and partners, up to a constant per point, whichever its partner."""
        x, partners = x.to(self.y.device), self._kinds(partners)
        score = self.gamma[partners] / self.scale + (x * self.y[partners]).sum(1)
        return score if self.log_b is None else score - self.log_b[partners] / self.scale

    def among(self, data: Int64[Tensor, " k"]) -> "Assignment":
        """Build the assignment at eps = 0 among some of the data, numbered by their positions in `data`."""
        data = self._kinds(data)
        g = self.gamma / self.scale if self.log_b is None else (self.gamma - self.log_b) / self.scale
        return Assignment(self.y[data], g[data], 0.0, device=str(self.y.device))

    def nats(self, x: Float64[Tensor, "n d"]) -> float:
        """Sum the entropies of the points' partners, in nats; at eps = 0 those among equal data."""
        if self.ties is not None:
            zeros = torch.zeros(len(x), dtype=torch.float64)
            return self.ties.nats[self._kinds(self.partners(x, zeros))].sum().item()
        if self.eps == 0:
            return 0.0
        total = 0.0
        for part in x.to(self.y.device).split(max(1, DOUBTFUL // len(self.y))):
            total += torch.special.entr((self._scores(part) * math.log(2)).softmax(1)).sum().item()
        return total

    def _kinds(self, data: Int64[Tensor, " k"]) -> Int64[Tensor, " k"]:
        """Number data as the rows of `y`, of which equal data are one."""
        data = data.to(self.y.device)
        return data if self.ties is None else self.ties.kind[data]

    def _score(self, left: Float[Tensor, "r k"], tile: Float[Tensor, "w k"], workers: Workers) -> Float[Tensor, "r w"]:
        """Compute float32 scores in this thread's buffer."""
        return torch.mm(left, tile.T, out=workers.room(0, len(left), len(tile), left.new_empty))

    def _scores(self, x: Float64[Tensor, "r d"]) -> Float64[Tensor, "r N"]:
        return (x @ self.y.T) * self.scale + self.gamma

    def _error(self, x: Float64[Tensor, "r d"], unit: float = UNIT) -> Float64[Tensor, " r"]:
        """Bound the rounding error of a point's scores, in float32 or another precision."""
        return CERTAIN * unit * math.sqrt(x.shape[1] + 1) * (x.norm(dim=1) * self.longest + self.highest)

    def _largest(self, x: Float64[Tensor, "r d"], _: Float64[Tensor, " r"], workers: Workers) -> tuple[Tensor, Tensor]:
        """Find the datum of the largest score of each point, and whether float32 suffices to decide it.

        The maximum of a whole row is quick and its position is not; so maxima are taken over groups of data, and only
        the group with the largest is kept and searched.
        """
        left = _with_one(x)
        best = runner = left.new_full((len(x),), -math.inf)
        group, found = left.new_empty(len(x), GROUP), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for number, tile in enumerate(self.tiles):
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
        return found + position, best - runner > 2 * self._error(x)

    def _draw(self, x: Float64[Tensor, "r d"], u: Float64[Tensor, " r"], workers: Workers) -> tuple[Tensor, Tensor]:
        """Find the datum that u falls on for each point, by tiles and then in one; and whether float32 suffices."""
        left = _with_one(x)
        tops, sums = left.new_empty(len(self.tiles), len(x)), left.new_empty(len(self.tiles), len(x))
        for number, tile in enumerate(self.tiles):
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
            weights = self._score(left[rows], self.tiles[number], workers).sub_(top[rows, None]).exp2_().double()
            before = cumulative[number - 1, rows] if number else torch.zeros_like(aim[rows])
            inside = torch.cat([before[:, None], before[:, None] + weights.cumsum(1)], 1)
            position = (torch.searchsorted(inside, aim[rows, None], right=True) - 1).clamp(0, weights.shape[1] - 1)
            low, high = inside.gather(1, position)[:, 0], inside.gather(1, position + 1)[:, 0]
            found[rows] = number * TILE + position[:, 0]
            gap[rows] = (aim[rows] - low).minimum(high - aim[rows])
        return found, gap > 2 * total * (math.log(2) * 2 * self._error(x) + SUMS)

    def _settle(self, x: Float64[Tensor, "r d"], workers: Workers) -> Int64[Tensor, " r"]:
        """Find the datum of the largest score in float64, among those that float32's error leaves in question.

        Among scores that float64 cannot distinguish the first datum wins.
        """
        left, error = _with_one(x), 2 * self._error(x)
        best, found = left.new_full((len(x),), -math.inf).double(), []
        for number, tile in enumerate(self.tiles):
            scores = self._score(left, tile, workers)
            best = best.maximum(scores.amax(1))
            row, column = (scores >= (best - error)[:, None]).nonzero().T
            found.append((row, column + number * TILE, scores[row, column]))
        row, datum, score = (torch.cat(parts) for parts in zip(*found, strict=True))
        near = score >= (best - error)[row]
        row, datum = row[near], datum[near]
        exact = (x[row] * self.y[datum]).sum(1) * self.scale + self.gamma[datum]
        top = torch.full_like(best, -math.inf).scatter_reduce_(0, row, exact, "amax")
        first = exact >= (top - 2 * self._error(x, DOUBLE))[row]
        last = torch.full((len(x),), len(self.y), device=x.device)
        return last.scatter_reduce_(0, row[first], datum[first], "amin")

    def _draw_exactly(self, x: Float64[Tensor, "r d"], u: Float64[Tensor, " r"]) -> Int64[Tensor, " r"]:
        """Draw in float64: an edge between two data depends on the scores of all."""
        scores = self._scores(x)
        cumulative = scores.sub_(scores.amax(1, keepdim=True)).exp2_().cumsum(1)
        return torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True)[:, 0].clamp(
            max=len(self.y) - 1
        )


def _with_one(x: Float64[Tensor, "r d"]) -> Float[Tensor, "r k"]:
    return torch.cat([x, x.new_ones(len(x), 1)], 1).float()
