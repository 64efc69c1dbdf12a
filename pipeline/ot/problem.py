"""A coupling problem and its closed-form quantities.

Shapes: n source rows, m target rows, d features. The cost is the negative dot product C = -x0 x1^T everywhere: at the
same absolute eps it has the same plan as 0.5|x0 - x1|^2, whose norms the potentials absorb.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import InputError


@dataclass(frozen=True)
class Problem:
    """One block: couple the rows of `x0` with the rows of `x1` at regularisation `eps`.

    Args:
        x0: source rows [n, d], float32 or float64.
        x1: target rows [m, d], same dtype and device.
        eps: absolute regularisation in units of the cost; the exact and the independent coupling ignore it.
        a: source weights [n] summing to 1, zeros allowed; None is uniform.
        b: target weights [m], likewise.

    Raises:
        InputError: shapes, dtypes or devices that disagree, values that are not finite, weights that are negative
            or do not sum to 1.
    """

    x0: Float[Tensor, "n d"]
    x1: Float[Tensor, "m d"]
    eps: float
    a: Float[Tensor, " n"] | None = None
    b: Float[Tensor, " m"] | None = None

    def __post_init__(self) -> None:
        _check_points(self.x0, self.x1)
        _check_weights("a", self.a, self.x0)
        _check_weights("b", self.b, self.x1)

    @property
    def n(self) -> int:
        """Source rows."""
        return self.x0.shape[0]

    @property
    def m(self) -> int:
        """Target rows."""
        return self.x1.shape[0]

    def weights(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
        """Both marginals in float64, each summing to 1 to its precision."""
        return marginal(self.a, self.x0), marginal(self.b, self.x1)


def marginal(weights: Float[Tensor, " k"] | None, points: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    """`weights` in float64, normalised; uniform over `points` where None."""
    if weights is None:
        return torch.full((len(points),), 1 / len(points), dtype=torch.float64, device=points.device)
    exact = weights.double()
    return exact / exact.sum()


def entropy(weights: Float[Tensor, " k"]) -> float:
    """Shannon entropy of a probability vector, in nats."""
    return torch.special.entr(weights.double()).sum().item()


def centred(
    points: Float[Tensor, "k d"], weights: Float[Tensor, " k"]
) -> tuple[Float[Tensor, " d"], Float[Tensor, "k d"]]:
    """The weighted mean of the rows and the rows without it, in float64."""
    exact = points.double()
    centre = exact.T @ weights
    return centre, exact - centre


def cost_std(
    x0: Float[Tensor, "n d"],
    x1: Float[Tensor, "m d"],
    a: Float[Tensor, " n"] | None = None,
    b: Float[Tensor, " m"] | None = None,
) -> float:
    """Standard deviation of C_ij = -x0_i . x1_j over the product of the marginals, in closed form.

    With means u0, u1 and covariances S0, S1 it is Var C = <S0, S1> + u1.S0 u1 + u0.S1 u0, which, unlike
    E[C^2] - E[C]^2, does not cancel when the data have an offset. O((n + m) d^2), float64, never n x m.

    Args:
        x0: source rows [n, d]; x1: target rows [m, d]; a, b: weights [n], [m] summing to 1, None is uniform.

    Raises:
        InputError: as `Problem`.
    """
    _check_points(x0, x1)
    _check_weights("a", a, x0)
    _check_weights("b", b, x1)
    u0, s0 = _moments(x0, marginal(a, x0))
    u1, s1 = _moments(x1, marginal(b, x1))
    return math.sqrt(max(0.0, ((s0 * s1).sum() + u1 @ s0 @ u1 + u0 @ s1 @ u0).item()))


def _moments(
    points: Float[Tensor, "k d"], weights: Float[Tensor, " k"]
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    centre, rows = centred(points, weights)
    return centre, (rows * weights[:, None]).T @ rows


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
