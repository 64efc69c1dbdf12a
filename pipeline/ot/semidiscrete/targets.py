"""Both sides of a semi-discrete problem: data in sections that a team's members own, and an infinite source.

With the dot-product cost C = -<x, y> and a potential g, a source point x goes to datum j with a probability
proportional to b_j exp((g_j + <x, y_j>) / eps), at eps = 0 to the datum of the largest g_j + <x, y_j> (arXiv
2509.25519).
"""

import math
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.sinkhorn.gaussian_potential import fit_gaussians
from flowpairs.pipeline.ot.tiles.equal_rows import equal_rows
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team

BATCH = 2**16  # points that sections are cut for: constant, since sections must not depend on the batch size
MOMENT_ROWS = 2**16  # the data's moments come from at most this many of them, evenly spaced


@runtime_checkable
class PointSource(Protocol):
    """A distribution whose points are functions of their number."""

    def points(self, first: int, count: int) -> Float[Tensor, "count d"]:
        """Generate points `first` to `first + count`, float32: the same in every call and process."""


class Targets:
    """N data with weights, of which this process holds the sections that it owns.

    Args:
        y: all data, float32 [N, d], such as an array that processes of a node map together.
        b: weights of the data, positive, with sum 1; None is uniform.
        device: "cpu" or "cuda", where to compute.
        team: processes that share the sections.

    Attributes:
        count: number K of distinct data, on which all else works; equal data are one, with their weights together.
        kind: which of the distinct data each of the N is; None where all differ.
        share: partition of the K rows.
        centre: mean of (some of) the data, which `rows` subtracts [d].
        b: weights of the distinct data, float64 [K].
        kept: what a backend made of this process's data, to be made once, after what else it depends on.

    Raises:
        InputError: no data, values that are not finite, weights that are no distribution, or more members than
            sections.
    """

    def __init__(
        self, y: Float[Tensor, "N d"], b: Float[Tensor, " N"] | None = None, device: str = "cpu", team: Team = SINGLE
    ) -> None:
        if y.ndim != 2 or 0 in y.shape:
            raise InputError(f"y: shape {tuple(y.shape)}; give a non-empty matrix, a datum a row")
        if b is not None and not (b.shape == y.shape[:1] and bool((b > 0).all()) and abs(b.sum().item() - 1) < 1e-4):
            raise InputError("b: needs one positive weight a datum, summing to 1; leave out data of zero weight")
        weights = torch.full((len(y),), 1 / len(y), dtype=torch.float64) if b is None else b.double()
        first, kind = equal_rows(y)
        self.kind: Int64[Tensor, " N"] | None = None
        if len(first) < len(y):  # their common mass is all that noise can tell
            self.kind, y = kind, y[first]
            weights = weights.new_zeros(len(y)).index_add_(0, kind, weights)
        self.count, self.dim = y.shape
        self.share = RowPartition(self.count, BATCH, torch.device(device), team)
        if team.size > len(self.share.sections):
            raise InputError(
                f"cluster.actors={team.size}: {self.count} data keep {len(self.share.sections)} busy; lower it"
            )
        self.device, self._y = torch.device(device), y
        self.kept: tuple[object, Any] | None = None
        self._some = y[:: -(-self.count // MOMENT_ROWS)].double().to(device)
        # An offset of the data adds the same number to all scores of a point, and would cost float32 digits.
        self.centre = self._some.mean(0)
        self._some -= self.centre
        if not all(bool(torch.isfinite(self.rows(section)).all()) for section in self._sections()):
            raise InputError("y: holds values that are not finite; remove those data")
        self.b = (weights / weights.sum()).to(device)

    def rows(self, rows: slice) -> Float64[Tensor, "r d"]:
        """Read some of the data, less their centre; nothing is kept, since in float64 all of them take 8 K d bytes."""
        return self._y[rows].double().to(self.device) - self.centre

    def _sections(self) -> list[slice]:
        """Return the sections that this process owns."""
        return [self.share.sections[k] for k in self.share.mine]

    def points(self, source: PointSource, first: int, count: int) -> Float[Tensor, "count d"]:
        """Generate points `first` to `first + count` of the source, of which each member of the team makes a part."""
        team, whole = self.share.team, torch.zeros(count, self.dim, device=self.device)
        low, high = (count * rank // team.size for rank in (team.rank, team.rank + 1))
        if low < high:
            whole[low:high] = source.points(first + low, high - low)
        return team.sum(whole)

    def spread(self, g: Float[Tensor, " K"]) -> Float[Tensor, " N"]:
        """Give each of the N data the value of its kind."""
        return g if self.kind is None else g[self.kind.to(g.device)]

    def gathered(self, g: Float[Tensor, " N"]) -> Float[Tensor, " K"]:
        """Give each kind the value of the last of its data: a potential is the same for all of them."""
        return g if self.kind is None else g.new_zeros(self.count).index_copy_(0, self.kind.to(g.device), g)

    def cost_std(self, points: Float[Tensor, "p d"]) -> float:
        """Compute the standard deviation of the cost as `flowpairs.pipeline.ot.costs.cost.moments` does.

        Args:
            points: points of the source, as many as moments need.
        """
        mean, x = self._moments(points)
        covariance = x.T @ x / len(x)
        squares, means = torch.zeros_like(self.b), torch.zeros_like(self.b)
        for section in self._sections():
            y = self.rows(section)
            squares[section], means[section] = ((y @ covariance) * y).sum(1), y @ mean
        within = self.share.total(self.b * squares) + self.centre @ covariance @ self.centre
        return math.sqrt(within + self.share.total(self.b * means.square()) - self.share.total(self.b * means) ** 2)

    def start(self, points: Float[Tensor, "p d"], eps: float) -> Float[Tensor, " N"]:
        """Compute the potential between Gaussians with the points' and the data's moments, for this process's data."""
        mean, x = self._moments(points)
        a, b = (x.new_full((len(z),), 1 / len(z)) for z in (x, self._some))
        potential, g = fit_gaussians(x, self._some, a, b, eps), torch.zeros_like(self.b)
        for section in self._sections():
            y = self.rows(section)
            g[section] = potential(y) - y @ mean
        return g

    def centred(self, g: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Subtract from g its mean, which no coupling depends on, for this process's data."""
        return g - self.share.total(self.b * g)

    def _moments(self, points: Float[Tensor, "p d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "p d"]]:
        """Compute the mean of some source points, and the points less that mean."""
        x = points.double().to(self.device)
        return x.mean(0), x - x.mean(0)
