"""Both sides of a problem cut into regions of equal numbers: the data in space, then the source rows among them."""

from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.sinkhorn.solver import solve_sinkhorn

ITERATIONS = 16  # of the power method: any direction along which the data spread will do
COARSE, COARSE_PASSES = 1e-3, 200  # rel_eps of the plan between source rows and regions, and passes of its solve


class Region(NamedTuple):
    """Equally many source and target rows, by number and in order."""

    rows: Int[Tensor, " k"]
    columns: Int[Tensor, " k"]


def cut(problem: Problem, count: int) -> list[Region]:
    """Cut a problem into `count` regions whose sizes differ by one at the most.

    The target rows are halved along their principal direction, and the halves again, down to the regions. The source
    rows go where a plan from them to the regions' centres sends them, at a regularisation of next to nothing, each
    centre with as much mass as its region; the plan is rounded to whole rows.

    Args:
        problem: problem with as many source as target rows, uniform weights, and cost "dot" or "sqeuclidean".
        count: number of regions, each of at least two rows.

    Raises:
        InputError: another problem, or more regions than that.
    """
    _check(problem, count)
    sizes = [(k + 1) * problem.m // count - k * problem.m // count for k in range(count)]
    columns = _halved(problem.x1, torch.arange(problem.m, device=problem.x1.device), sizes)
    if count == 1:
        return [Region(torch.arange(problem.n, device=problem.x0.device), columns[0])]
    centres = torch.stack([problem.x1[part].double().mean(0) for part in columns]).to(problem.x1.dtype)
    shares = torch.tensor(sizes, dtype=torch.float64, device=centres.device) / problem.m
    coarse = Problem(problem.x0, centres, 1.0, None, shares, problem.cost).measured()
    assert coarse.cost_moments is not None
    if coarse.cost_moments.std == 0:  # all centres or all source rows are one point
        nearest = torch.arange(count, device=centres.device).repeat_interleave(
            torch.tensor(sizes, device=centres.device)
        )
    else:
        plan = solve_sinkhorn(coarse.at(COARSE), max_passes=COARSE_PASSES)
        halves = torch.full((problem.n,), 0.5, dtype=torch.float64, device=centres.device)
        nearest = plan.draw_balanced(halves, torch.arange(count, device=centres.device))
    return [Region((nearest == k).nonzero()[:, 0], part) for k, part in enumerate(columns)]


def _check(problem: Problem, count: int) -> None:
    if problem.cost not in ("dot", "sqeuclidean"):
        raise InputError("regions: a cost that is no inner product has no centres of regions; give dot or sqeuclidean")
    if problem.n != problem.m or problem.a is not None or problem.b is not None:
        raise InputError(
            f"regions: {problem.n} and {problem.m} rows, weighted or not; give both sides equally many, without weights"
        )
    if not 1 <= count <= max(1, problem.m // 2):
        raise InputError(f"regions={count}: a region takes two rows or more, of {problem.m}; give fewer")


def _halved(points: Float[Tensor, "m d"], rows: Int[Tensor, " k"], sizes: list[int]) -> list[Int[Tensor, " _"]]:
    """Cut rows into parts of the given sizes, by halving the number of parts; the rows of a part are in order."""
    if len(sizes) == 1:
        return [rows.sort().values]
    middle = len(sizes) // 2
    sides = sizes[:middle], sizes[middle:]
    first = rows[_along(points[rows].double()).argsort(stable=True)]
    bounds = pairwise(accumulate((sum(side) for side in sides), initial=0))
    return [
        part
        for (low, high), side in zip(bounds, sides, strict=True)
        for part in _halved(points, first[low:high].sort().values, side)
    ]


def _along(points: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    """Compute the points' coordinates along their principal direction, or one nearly as good."""
    apart = points - points.mean(0)
    direction = apart[apart.square().sum(1).argmax()]
    for _ in range(ITERATIONS):
        direction = direction / direction.norm().clamp(min=1e-300)
        direction = apart.T @ (apart @ direction)
    return apart @ (direction / direction.norm().clamp(min=1e-300))
