"""Geodesic costs against the matrix exponential, against distances that are known, and through the solvers."""

import numpy as np
import ot
import pytest
import torch
from scipy.linalg import expm

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CouplingConfig
from flowpairs.pipeline.ot.costs.geodesic import Lookup, _adjacency, geodesic_cost, points
from flowpairs.pipeline.solve.draw import allot_rows, build_problem, draw_pairs, solve_block


def circle(count: int, turn: float = 0.0) -> np.ndarray:
    """Equally spaced points of the unit circle, as angles and as points."""
    angle = 2 * np.pi * (np.arange(count) + turn) / count
    return np.stack([np.cos(angle), np.sin(angle)], 1)


@pytest.mark.parametrize("heat", [0.5, 5.0, 60.0, 1200.0])
def test_heat_is_the_matrix_exponential(heat):
    generator = np.random.default_rng(0)
    x0, x1 = generator.normal(size=(40, 3)), generator.normal(size=(30, 3))
    adjacency = _adjacency(np.concatenate([x0, x1]), 8).toarray()
    np.testing.assert_allclose(adjacency, adjacency.T, rtol=1e-14)
    truth = expm(-heat * (np.eye(70) - adjacency))[:40, 40:]
    large = truth > 1e-10  # the exponential of a matrix with negative entries has no digits below
    assert large.any()
    np.testing.assert_allclose(geodesic_cost(x0, x1, 8, heat)[large], (-4 * heat * np.log(truth))[large], rtol=1e-4)


def test_cost_is_the_squared_arc_of_a_circle():
    """On a ring of 400 points, where Euclid cuts through: heat is a walk of variance t edges, so C is 2 edges^2."""
    cost = geodesic_cost(circle(200), circle(200, 0.5), 2, 800.0)[0].astype(np.float64)
    edges = 2 * np.arange(100) + 1.0
    np.testing.assert_allclose(np.diff(cost[:60]), np.diff(2 * edges[:60] ** 2), rtol=0.01)
    assert (np.diff(cost[:100]) > 0).all()
    np.testing.assert_allclose(cost[100:], cost[:100][::-1], rtol=1e-5)  # and around the other way


def test_far_away_is_far_and_finite():
    """On a line of 400 points the ends are 399 edges apart, where a plain exponential rounds to noise."""
    x = np.stack([np.arange(400.0), np.zeros(400)], 1)
    cost = geodesic_cost(x[:1], x[1:], 2, 200.0)[0]
    assert np.isfinite(cost).all()
    assert (np.diff(cost) > 0).all()
    with pytest.raises(InputError, match=r"coupling.heat=20: some points of a block are more than \d+ edges apart"):
        geodesic_cost(x[:1], x[1:], 2, 20.0)


def test_parts_are_refused():
    x = circle(20)
    with pytest.raises(InputError, match=r"coupling.neighbours=3: .* 2 parts, the smallest of 20 points"):
        geodesic_cost(x, x + 100, 3, 10.0)
    with pytest.raises(InputError, match=r"coupling.neighbours=40: a block has 40 points"):
        geodesic_cost(x, x, 40, 10.0)


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_looked_up_costs_give_pot_s_plan(method):
    generator = np.random.default_rng(0)
    costs = generator.random((50, 70)).astype(np.float32)
    a, b = generator.random(50), generator.random(70)
    a, b = a / a.sum(), b / b.sum()
    eps: dict[str, float] = {} if method == "exact" else {"eps": 0.02}
    options = CouplingConfig.model_validate({"method": method, "n": 70, "tol": 1e-6, **eps})
    x0, x1 = torch.zeros(50, 1), torch.zeros(70, 1)
    weights = torch.from_numpy(a), torch.from_numpy(b)
    coupling = solve_block(options, build_problem(options, x0, x1, *weights, torch.from_numpy(costs)))
    if method == "exact":
        truth = ot.emd(a, b, costs.astype(np.float64))
    else:
        truth = ot.sinkhorn(a, b, costs.astype(np.float64), 0.02, method="sinkhorn_log", stopThr=1e-12)
    assert coupling.report.cost_coupled == pytest.approx((truth * costs).sum(), rel=2e-4)
    count = 40_000
    for backward, side in ((False, a), (True, b)):
        rows = allot_rows(side, count, 0.5, generator.permutation(count))
        pairs = draw_pairs(coupling, generator.random(count), rows, None, backward=backward)
        drawn = np.zeros_like(truth)
        np.add.at(drawn, pairs, 1 / count)
        assert np.abs(drawn - truth).max() < 6 * np.sqrt(truth.max() / count)
    assert Lookup(torch.from_numpy(costs))(points(50, x0.device)[3:5], points(70, x0.device)).tolist() == (
        costs[3:5].tolist()
    )


def test_spread_gives_each_its_share():
    """Systematic sampling: floor or ceiling of every share, the mean exact over u; even where weights are even."""
    weights = np.array([0.5, 0.2, 0.0, 0.3])
    total = np.zeros(4)
    for u in (np.arange(1000) + 0.5) / 1000:
        rows = allot_rows(weights, 7, u, np.arange(7))
        counts = np.bincount(rows, minlength=4)
        assert (np.abs(counts - 7 * weights) < 1).all()
        total += counts / 1000
    np.testing.assert_allclose(total, 7 * weights, atol=2e-3)
    for u in (0.0, 0.3, 1 - 2**-53):
        assert (np.bincount(allot_rows(np.full(1797, 1 / 1797), 1797, u, np.arange(1797))) == 1).all()
