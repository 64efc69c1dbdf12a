"""The coupling problem of a block. Shapes: n source rows, m target rows, d features."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.costs.cost import Cost, Moments, moments
from flowpairs.pipeline.ot.costs.formula import Formula
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team, of_first
from flowpairs.pipeline.ot.tiles.tiling import Workers


class Side(NamedTuple):
    """Rows of a side, in an order, and their weights."""

    rows: Int[Tensor, " k"]
    weights: Float64[Tensor, " k"]


@dataclass(frozen=True)
class Problem:
    """One block: couple the rows of `x0` with the rows of `x1` at regularisation `eps`.

    Args:
        x0: source rows [n, d], float32 or float64.
        x1: target rows [m, d], same dtype and device.
        eps: absolute regularisation in units of the cost; the exact and the independent coupling ignore it.
        a: source weights [n] with sum 1, zeros allowed; None is uniform.
        b: target weights [m] with sum 1, zeros allowed; None is uniform.
        cost: "dot" (-x0 x1^T), "sqeuclidean" (|x0 - x1|^2), a `Formula`, or a function of tiles [r, d], [c, d] ->
            [r, c].
        cost_moments: moments of the cost, where they are already known.

    Raises:
        InputError: shapes, dtypes or devices that disagree, fewer features than a formula names, values that are not
            finite, weights that are negative or do not sum to 1.
    """

    x0: Float[Tensor, "n d"]
    x1: Float[Tensor, "m d"]
    eps: float
    a: Float[Tensor, " n"] | None = None
    b: Float[Tensor, " m"] | None = None
    cost: Cost = "dot"
    cost_moments: Moments | None = None

    def __post_init__(self) -> None:
        _check_points(self.x0, self.x1)
        if isinstance(self.cost, Formula):
            self.cost.check_features(self.x0.shape[1])
        _check_weights("a", self.a, self.x0)
        _check_weights("b", self.b, self.x1)

    @property
    def n(self) -> int:
        """Number of source rows."""
        return self.x0.shape[0]

    @property
    def m(self) -> int:
        """Number of target rows."""
        return self.x1.shape[0]

    def weights(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
        """Return both marginals in float64, each normalised to sum 1 in that precision."""
        return marginal(self.a, self.x0), marginal(self.b, self.x1)

    def chosen(self, rows: Int[Tensor, " k"]) -> "Problem":
        """Select some of the source rows, in any order and possibly repeated, with equal weights and the same cost."""
        return replace(self, x0=self.x0[rows], a=None, cost_moments=None)

    def part(self, source: "Side", target: "Side") -> "Problem":
        """Select some rows of each side, which hold all of its weight, with the same cost."""
        x0, x1 = self.x0[source.rows], self.x1[target.rows]
        return replace(self, x0=x0, x1=x1, a=source.weights, b=target.weights)

    @property
    def knows_float32_alone(self) -> bool:
        """Whether the cost may not take float64: a user's function."""
        return callable(self.cost) and not isinstance(self.cost, Formula)

    def in_float64(self) -> "Problem":
        """Return the same problem with its points in float64, where its cost takes them."""
        if self.knows_float32_alone:
            return self
        return replace(self, x0=self.x0.double(), x1=self.x1.double())

    def swapped(self) -> "Problem":
        """Return the problem with source and target swapped."""
        return Problem(self.x1, self.x0, self.eps, self.b, self.a, _swapped(self.cost))

    def turned(self, x1: Float[Tensor, "k d"], b: Float[Tensor, " k"] | None) -> "Problem":
        """Build the problem from the target rows, unweighted, to `x1`, which are some source rows with weights b."""
        return Problem(self.x1, x1, self.eps, None, b, _swapped(self.cost))

    def measured(self, team: Team = SINGLE) -> "Problem":
        """Return the same problem with the moments of its cost."""
        if self.cost_moments is not None:
            return self
        with Workers(self.x0.device):
            found = moments(self.cost, self.x0, self.x1, *self.weights(), team)
            numbers = torch.tensor([found.mean, found.std], dtype=torch.float64, device=self.x0.device)
            return replace(self, cost_moments=Moments(*of_first(team, numbers).tolist()))

    def at(self, rel_eps: float, team: Team = SINGLE) -> "Problem":
        """Return the same problem with eps = rel_eps std(C)."""
        measured = self.measured(team)
        assert measured.cost_moments is not None
        return replace(measured, eps=rel_eps * measured.cost_moments.std)


def _swapped(cost: Cost) -> Cost:
    """Swap the cost's arguments, and with them its rows and columns."""
    if isinstance(cost, Formula):
        return cost.swapped()
    return (lambda ours, theirs: cost(theirs, ours).T) if callable(cost) else cost


def marginal(weights: Float[Tensor, " k"] | None, points: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    """Normalise `weights` in float64; None gives uniform weights over `points`."""
    if weights is None:
        return torch.full((len(points),), 1 / len(points), dtype=torch.float64, device=points.device)
    exact = weights.double()
    return exact / exact.sum()


def entropy(weights: Float[Tensor, " k"]) -> float:
    """Compute the Shannon entropy of a probability vector, in nats."""
    return torch.special.entr(weights.double()).sum().item()


def cost_std(
    x0: Float[Tensor, "n d"],
    x1: Float[Tensor, "m d"],
    a: Float[Tensor, " n"] | None = None,
    b: Float[Tensor, " m"] | None = None,
    cost: Cost = "dot",
) -> float:
    """Compute the standard deviation of the cost over the product of the marginals, the unit of a relative eps.

    Args:
        x0: source rows, as for `Problem`.
        x1: target rows, as for `Problem`.
        a: source weights, as for `Problem`.
        b: target weights, as for `Problem`.
        cost: cost, as for `Problem`.

    Raises:
        InputError: as `Problem`.
    """
    cost_moments = Problem(x0, x1, 0.0, a, b, cost).measured().cost_moments
    assert cost_moments is not None
    return cost_moments.std


def _check_points(x0: Tensor, x1: Tensor) -> None:
    for name, points in (("x0", x0), ("x1", x1)):
        if points.ndim != 2 or 0 in points.shape:
            raise InputError(f"{name}: shape {tuple(points.shape)}; give a non-empty matrix, a point a row")
        if points.dtype not in (torch.float32, torch.float64):
            raise InputError(f"{name}: dtype {points.dtype}; convert the points to float32 or float64")
        if not torch.isfinite(points).all():
            raise InputError(f"{name}: holds values that are not finite; remove those rows")
    if x0.shape[1] != x1.shape[1]:
        raise InputError(f"x0 and x1: {x0.shape[1]} and {x1.shape[1]} features; the cost needs equally many")
    if x0.dtype != x1.dtype or x0.device != x1.device:
        raise InputError(f"x0 and x1: {x0.dtype} on {x0.device} and {x1.dtype} on {x1.device}; make them agree")


def _check_weights(name: str, weights: Tensor | None, points: Tensor) -> None:
    if weights is None:
        return
    if weights.shape != points.shape[:1]:
        raise InputError(f"{name}: shape {tuple(weights.shape)} for {len(points)} points; give one weight a point")
    total = weights.double().sum().item()
    if not (bool((weights >= 0).all()) and abs(total - 1) < 1e-4):
        raise InputError(f"{name}: weights must be non-negative and sum to 1, not {total:.6g}; normalise them")
