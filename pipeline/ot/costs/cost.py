"""Costs: the negative dot product, the squared distance, or the user's function of tiles; and their moments.

The dot product C = -x0 x1^T is the default: at the same absolute eps it has the same plan as 0.5 |x0 - x1|^2, whose
norms the potentials absorb. `sqeuclidean` is |x0 - x1|^2, hence it has the plan of the dot product at half its eps.
They differ in std(C), so the same relative eps does not give the same plan.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.tiles.centred_points import centred
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team
from flowpairs.pipeline.ot.tiles.tiling import Workers

CostFunction = Callable[[Tensor, Tensor], Tensor]  # [r, d], [c, d] -> [r, c]
Cost = Literal["dot", "sqeuclidean"] | CostFunction

ROWS, COLUMNS = 512, 1024  # most rows and columns of a user's function's tile, which may hold [r, c, d] in between


class Moments(NamedTuple):
    """Mean and standard deviation of the cost over the product of the marginals."""

    mean: float
    std: float


def tile(cost: CostFunction, x0: Float[Tensor, "r d"], x1: Float[Tensor, "c d"]) -> Float[Tensor, "r c"]:
    """Evaluate the user's cost between some rows, at most ROWS x COLUMNS entries at a time on any device.

    Raises:
        InputError: it raises, or returns another shape or values that are not finite.
    """
    try:
        parts = [[cost(some, others) for others in x1.split(COLUMNS)] for some in x0.split(ROWS)]
        shapes = [[tuple(part.shape) for part in beside] for beside in parts]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise InputError(
            f"cost: raised {type(error).__name__} ({error}) for tiles of {tuple(x0[:ROWS].shape)}"
        ) from error
    if shapes != [[(len(some), len(others)) for others in x1.split(COLUMNS)] for some in x0.split(ROWS)]:
        raise InputError(
            f"cost: returned shape {shapes[0][0]} for tiles of {tuple(x0[:ROWS].shape)} and "
            f"{tuple(x1[:COLUMNS].shape)}; return one cost for each row of the first and row of the second"
        )
    out = torch.cat([torch.cat(beside, 1) for beside in parts]).to(x0.dtype)
    if not torch.isfinite(out).all():
        raise InputError("cost: returned values that are not finite; return a large cost instead")
    return out


def moments(
    cost: Cost,
    x0: Float[Tensor, "n d"],
    x1: Float[Tensor, "m d"],
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    team: Team = SINGLE,
) -> Moments:
    """Compute mean and deviation of the cost in closed form, O((n + m) d^2); a user's function takes a pass instead.

    With means u0, u1 and covariances S0, S1 the dot product has Var C = <S0, S1> + u1.S0 u1 + u0.S1 u0, which, unlike
    E[C^2] - E[C]^2, does not cancel when the data have an offset. |x - y|^2 is p(x) + q(y) - 2 (x - u0).(y - u1), whose
    three terms do not correlate.

    Args:
        cost: cost of the problem.
        x0: source rows [n, d].
        x1: target rows [m, d].
        a: source weights, float64 [n].
        b: target weights, float64 [m].
        team: processes that share the pass.
    """
    if callable(cost):
        return _streamed(cost, x0, x1, a, b, team)
    rows, columns = centred(x0, a), centred(x1, b)
    u0, u1 = rows.centre, columns.centre
    s0, s1 = rows.gram(a), columns.gram(b)
    apart = u0 - u1
    if cost == "dot":
        mean, variance = -(u0 @ u1), (s0 * s1).sum() + u1 @ s0 @ u1 + u0 @ s1 @ u0
    else:
        p = rows.each(lambda own: own.square().sum(1) + 2 * own @ apart)
        q = columns.each(lambda own: own.square().sum(1) - 2 * own @ apart)
        mean = a @ p + b @ q + apart @ apart
        variance = a @ (p - a @ p).square() + b @ (q - b @ q).square() + 4 * (s0 * s1).sum()
    return Moments(mean.item(), math.sqrt(max(0.0, variance.item())))


def _streamed(
    cost: CostFunction,
    x0: Float[Tensor, "n d"],
    x1: Float[Tensor, "m d"],
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    team: Team,
) -> Moments:
    """Compute the moments over all entries, relative to the first few costs, so that an offset does not cancel."""
    share = RowPartition(len(x0), len(x1), a.device, team)
    about = tile(cost, x0[:16], x1[:16]).double().mean()
    first, second = torch.zeros_like(a), torch.zeros_like(a)

    def work(group: list[slice]) -> None:
        for rows in group:
            apart = tile(cost, x0[rows], x1).double() - about
            first[rows], second[rows] = apart @ b, apart.square_() @ b

    with Workers(a.device) as workers:
        list(workers.map(work, share.groups()))
    mean, square = share.total(a * first), share.total(a * second)
    return Moments(about.item() + mean, math.sqrt(max(0.0, square - mean**2)))
