"""Partners of source points among data at a given potential: exact, tiled, and the same on any device.

At eps = 0 a point's partner is the datum of the largest g_j + <x, y_j>; at eps > 0 it is drawn with probabilities
proportional to b_j exp((g_j + <x, y_j>) / eps), by the inverse distribution function in the order of the data. Scores
are computed in float32 (pipeline/ot/semidiscrete/search.py), and a point whose partner depends on their rounding is
computed again in float64. So the partner of a point does not depend on other points, tiles, threads or devices.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.backends.choose import BackendName, choose_for_products
from flowpairs.pipeline.ot.semidiscrete.search import FusedSearch, Search, TiledSearch
from flowpairs.pipeline.ot.tiles.centred_points import CentredPoints, as_centred, slabs_of
from flowpairs.pipeline.ot.tiles.equal_rows import equal_rows
from flowpairs.pipeline.ot.tiles.kernel import LOG2E
from flowpairs.pipeline.ot.tiles.ordered_sums import add_by_index, running_sums
from flowpairs.pipeline.ot.tiles.tiling import Workers

DOUBTFUL = {"cpu": 2**22, "cuda": 2**26}  # scores at a time in float64, for which all data are read
DOUBLE = 2.0**-53  # rounding unit of float64
LEAST = 1e-300  # of a kind's mass


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
        backend: what computes scores, on which no partner depends; "auto" takes the fused kernels on a GPU that they
            serve, else torch.

    Attributes:
        b: weights of the data, float64 [N].

    Raises:
        InputError: a potential that does not match, an eps out of range, or a backend that cannot serve.
    """

    def __init__(
        self,
        y: Float[Tensor, "N d"],
        g: Float[Tensor, " N"],
        eps: float,
        b: Float[Tensor, " N"] | None = None,
        device: str = "cpu",
        backend: BackendName = "auto",
    ) -> None:
        if g.shape != y.shape[:1] or not bool(torch.isfinite(g).all()):
            raise InputError(f"g: shape {tuple(g.shape)} for {len(y)} data; give one finite value a datum")
        if not (eps >= 0 and math.isfinite(eps)):
            raise InputError(f"eps={eps!r}: the regularisation must be finite and not negative; give 0 or more")
        self.eps, self.scale = eps, LOG2E / eps if eps > 0 else 1.0
        y, g = y.to(device), g.to(device).double()
        even = torch.full((len(y),), 1 / len(y), dtype=torch.float64)
        self.b = (even if b is None else b.double()).to(device)
        self.ties: Ties | None = None
        if eps == 0:
            first, kind = equal_rows(torch.stack([equal_rows(y).kind.double(), g], 1))
            if len(first) < len(y):
                self.ties, y, g = Ties.of(kind, self.b), y[first], g[first]
        self.y = _centred(y)  # an offset adds the same number to all scores of a point
        self.gamma = g * self.scale
        self.log_b = None if eps == 0 or b is None else self.b.log2()
        if self.log_b is not None:
            self.gamma = self.gamma + self.log_b
        self.gamma = self.gamma - self.gamma.mean()
        self.backend, self.device = backend, y.device
        fused = choose_for_products(backend, y.device) == "triton"
        self.search: Search = (FusedSearch if fused else TiledSearch)(self.y, self.gamma, self.scale)

    def partners(self, x: Float64[Tensor, "n d"], u: Float64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Find the partner of each point.

        Args:
            x: points [n, d].
            u: uniforms in [0, 1), one per point; at eps = 0 they only choose among equal data.
        """
        x, u = x.to(self.device), u.to(self.device)
        out, sure = torch.zeros_like(u, dtype=torch.int64), torch.zeros_like(u, dtype=torch.bool)
        look, size = self._draw if self.eps > 0 else self._largest, self.search.size

        def work(rows: slice) -> None:
            out[rows], sure[rows] = look(x[rows], u[rows], workers)

        def decide(rows: Tensor) -> None:
            out[rows] = self._draw_exactly(x[rows], u[rows]) if self.eps > 0 else self._settle(x[rows], workers)

        with Workers(x.device) as workers:
            list(workers.map(work, [slice(low, low + size) for low in range(0, len(x), size)]))
            few = self._few() if self.eps > 0 else size
            doubtful = (~sure).nonzero()[:, 0]
            list(workers.map(decide, doubtful.split(few) if len(doubtful) else []))
        return out if self.ties is None else self.ties.choose(out, u)

    def worth(self, x: Float64[Tensor, "n d"], partners: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Compute g_j + <x_i, y_j> of points and partners, up to a constant per point, whichever its partner."""
        x, partners = x.to(self.device), self._kinds(partners)
        score = self.gamma[partners] / self.scale + (x * self.y[partners]).sum(1)
        return score if self.log_b is None else score - self.log_b[partners] / self.scale

    def among(self, data: Int64[Tensor, " k"]) -> "Assignment":
        """Build the assignment at eps = 0 among some of the data, numbered by their positions in `data`."""
        data = self._kinds(data)
        g = self.gamma / self.scale if self.log_b is None else (self.gamma - self.log_b) / self.scale
        return Assignment(self.y[data], g[data], 0.0, device=str(self.device), backend=self.backend)

    def nats(self, x: Float64[Tensor, "n d"]) -> float:
        """Sum the entropies of the points' partners, in nats; at eps = 0 those among equal data."""
        if self.ties is not None:
            zeros = torch.zeros(len(x), dtype=torch.float64)
            return self.ties.nats[self._kinds(self.partners(x, zeros))].sum().item()
        if self.eps == 0:
            return 0.0
        total = 0.0
        for part in x.to(self.device).split(self._few()):
            total += torch.special.entr((self._scores(part) * math.log(2)).softmax(1)).sum().item()
        return total

    def _few(self) -> int:
        """Return how many points' scores with all data may be there at a time in float64."""
        return max(1, DOUBTFUL[self.device.type] // len(self.y))

    def _kinds(self, data: Int64[Tensor, " k"]) -> Int64[Tensor, " k"]:
        """Number data as the rows of `y`, of which equal data are one."""
        data = data.to(self.device)
        return data if self.ties is None else self.ties.kind[data]

    def _scores(self, x: Float64[Tensor, "r d"]) -> Float64[Tensor, "r N"]:
        return torch.cat([x @ own.T for _, own in self.y.slabs()], 1) * self.scale + self.gamma

    def _largest(self, x: Float64[Tensor, "r d"], _: Float64[Tensor, " r"], workers: Workers) -> tuple[Tensor, Tensor]:
        """Find the datum of the largest score of each point, and whether float32 suffices to decide it."""
        found, lead = self.search.largest(x, workers)
        return found, lead > 2 * self.search.error(x)

    def _draw(self, x: Float64[Tensor, "r d"], u: Float64[Tensor, " r"], workers: Workers) -> tuple[Tensor, Tensor]:
        """Find the datum that u falls on for each point, and whether float32 suffices."""
        found, gap, sums = self.search.draw(x, u, workers)
        return found, gap > 2 * (math.log(2) * 2 * self.search.error(x) + sums)

    def _settle(self, x: Float64[Tensor, "r d"], workers: Workers) -> Int64[Tensor, " r"]:
        """Find the datum of the largest score in float64, among those that float32's error leaves in question.

        Among scores that float64 cannot distinguish the first datum wins.
        """
        row, datum = self.search.near(x, 2 * self.search.error(x), workers)
        exact = (x[row] * self.y[datum]).sum(1) * self.scale + self.gamma[datum]
        top = torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device).scatter_reduce_(0, row, exact, "amax")
        first = exact >= (top - 2 * self.search.rounding(x, DOUBLE))[row]
        last = torch.full((len(x),), len(self.y), device=x.device)
        return last.scatter_reduce_(0, row[first], datum[first], "amin")

    def _draw_exactly(self, x: Float64[Tensor, "r d"], u: Float64[Tensor, " r"]) -> Int64[Tensor, " r"]:
        """Draw in float64: an edge between two data depends on the scores of all."""
        scores = self._scores(x)
        cumulative = scores.sub_(scores.amax(1, keepdim=True)).exp2_().cumsum(1)
        return torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True)[:, 0].clamp(
            max=len(self.y) - 1
        )


def _centred(y: Float[Tensor, "N d"]) -> CentredPoints:
    """Take the mean off data, which stay in the type they came in."""
    total = torch.zeros(y.shape[1], dtype=torch.float64, device=y.device)
    for rows in slabs_of(as_centred(y)):
        total += y[rows].double().sum(0)
    return CentredPoints(y, total / len(y))
