"""The coupling of one block, and the pairs that are drawn from it."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from flowpairs.pipeline import ot
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import LEAST_EPS, CouplingConfig
from flowpairs.pipeline.ot.costs.formula import Formula
from flowpairs.pipeline.ot.costs.geodesic import Lookup, geodesic_cost, points
from flowpairs.pipeline.ot.sinkhorn.descent import Save
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team


def solve_block(
    options: CouplingConfig,
    problem: ot.Problem,
    *,
    g0: Float64[Tensor, " m"] | None = None,
    team: Team = SINGLE,
    resume: dict[str, Tensor] | None = None,
    save: Save | None = None,
) -> ot.Coupling:
    """Solve the coupling that the config asks for; its epsilon is relative, absolute, or found from its sharpness.

    Args:
        options: method, epsilon and tolerance.
        problem: result of `build_problem`; its eps is still to be set.
        g0: target potential to start from; see pipeline/solve/start.py.
        team: processes that share the rows, as for `solve_sinkhorn`.
        resume: tensors of an earlier checkpoint, as for `solve_sinkhorn`.
        save: writes a checkpoint, as for `solve_sinkhorn`.
    """
    if options.method == "exact":
        return ot.solve_exact(problem)
    if options.method == "independent":
        return ot.independent(problem)
    limits: dict[str, Any] = {"tol": options.tol, "max_passes": options.max_passes, "backend": options.backend}
    together: dict[str, Any] = {"team": team, "resume": resume, "save": save}
    if options.sharpness is not None:
        return ot.solve_for_sharpness(problem, options.sharpness, **limits, **together)
    measured = problem.measured(team)
    assert measured.cost_moments is not None
    problem = replace(measured, eps=absolute_eps(options, measured.cost_moments.std))
    if options.relax is not None:
        std = measured.cost_moments.std
        relax = ot.Relax(options.relax.source * std, options.relax.target * std)
        return ot.solve_relaxed(problem, relax, g0=g0, **limits, **together)
    if options.regions is not None:
        return ot.solve_in_regions(problem, options.regions, **limits)
    return ot.solve_sinkhorn(problem, g0=g0, **limits, **together)


def absolute_eps(options: CouplingConfig, std: float) -> float:
    """Convert the config's absolute or relative regularisation to units of the cost.

    Args:
        options: options with eps or rel_eps, one of which the config has filled in.
        std: standard deviation of the cost.

    Raises:
        InputError: a relative one of a cost that is constant, or one that is next to nothing.
    """
    if options.eps is not None:
        if 0 < options.eps < LEAST_EPS * std:
            raise InputError(
                f"coupling.eps={options.eps:g}: nothing resolves costs with std(C)={std:.3g} so finely; give "
                f"{LEAST_EPS * std:.3g} or more"
            )
        return options.eps
    assert options.rel_eps is not None, "the config fills in one of the two"
    if std == 0 and options.rel_eps:
        raise InputError(
            "std(C)=0: all costs are equal, since one side has one point or all its points are equal, and every "
            "coupling is as good as another; give other data or features, or coupling.method=independent"
        )
    return options.rel_eps * std


def build_problem(
    options: CouplingConfig,
    x0: Float[Tensor, "n k"],
    x1: Float[Tensor, "m k"],
    a: Float64[Tensor, " n"] | None = None,
    b: Float64[Tensor, " m"] | None = None,
    matrix: Float[Tensor, "n m"] | None = None,
) -> ot.Problem:
    """Build the coupling problem of a block, with a placeholder for the eps that is not yet known.

    Args:
        options: options that name the cost.
        x0: features of the source side.
        x1: features of the target side.
        a: weights of the source rows; None: uniform.
        b: weights of the target rows; None: uniform.
        matrix: the block's part of a precomputed cost.

    Raises:
        InputError: no graph for a geodesic cost, or one that does not fit in memory.
    """
    if options.cost == "geodesic":
        _check_memory(len(x0), len(x1))
        found = geodesic_cost(x0.cpu().numpy(), x1.cpu().numpy(), options.neighbours, options.heat)
        matrix = torch.from_numpy(found).to(x0.device)
    if matrix is not None:
        return ot.Problem(points(len(x0), x0.device), points(len(x1), x0.device), 1.0, a, b, Lookup(matrix))
    cost = options.cost_function() if options.formula is None else Formula(options.formula)
    assert cost != "geodesic"
    assert cost != "precomputed"
    return ot.Problem(x0, x1, 1.0, a, b, cost)


def check_formula(text: str, x0: Float[np.ndarray, "r k"], x1: Float[np.ndarray, "c k"]) -> None:
    """Refuse a formula which has no finite values for some rows of either side.

    Raises:
        InputError: it has none, or names features that the rows lack.
    """
    Formula(text).check_sample(torch.from_numpy(x0), torch.from_numpy(x1))


def draw_pairs(
    coupling: ot.Coupling,
    uniforms: Float64[np.ndarray, " n"],
    rows: Int64[np.ndarray, " n"] | None,
    order: Int64[np.ndarray, " m"] | None,
    *,
    backward: bool = False,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Draw the pairs of a block; return their source rows and target rows.

    Args:
        coupling: coupling of the block.
        uniforms: one number per pair, in [0, 1).
        rows: rows of the side that is drawn for, one per pair; None: every source row once.
        order: random order of the other side's rows for a balanced draw; None for a categorical draw.
        backward: draw source rows for target rows.
    """
    seen = coupling.swapped() if backward else coupling
    device = seen.problem.x0.device
    u = torch.from_numpy(uniforms).to(device)
    if rows is None:
        rows = np.arange(seen.problem.n)
    else:
        seen = seen.chosen(torch.from_numpy(rows).to(device))
    partners = seen.draw(u) if order is None else seen.draw_balanced(u, torch.from_numpy(order).to(device))
    drawn = partners.cpu().numpy()
    return (drawn, rows) if backward else (rows, drawn)


def allot_rows(
    weights: Float64[np.ndarray, " k"], pairs: int, u: float, order: Int64[np.ndarray, " pairs"]
) -> Int64[np.ndarray, " pairs"]:
    """Allot a row to each pair, each row as often as its weight says, rounded up or down so that the mean is exact.

    This is systematic sampling: the pairs lie at 0, 1, 2, ... on a line on which each row is as long as its share of
    the pairs, shifted by one uniform u. They are then put in a random order, so that the first pairs are as good as
    any.

    Args:
        weights: weights of the rows, with sum 1.
        pairs: number of pairs.
        u: uniform number in [0, 1).
        order: permutation of the pairs.
    """
    edges = np.cumsum(weights)[:-1] * pairs
    edges = np.where(np.abs(edges - edges.round()) < 1e-9 * pairs, edges.round(), edges)  # equal weights, equal counts
    edges = np.floor(np.concatenate([[0.0], edges, [pairs]]) + min(u, 1 - 1e-9)).astype(np.int64)  # 1 + u must not be 2
    return np.repeat(np.arange(len(weights)), np.diff(edges))[order]


def _check_memory(n: int, m: int) -> None:
    """Refuse a geodesic cost whose matrices do not fit in memory."""
    from flowpairs.pipeline.ot.direct.exact import available_memory

    needed, free = 28 * (n + m) * m, available_memory()
    if needed > free:
        raise InputError(
            f"coupling.cost=geodesic: {n} x {m} rows need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
            "free; give a smaller coupling.n"
        )
