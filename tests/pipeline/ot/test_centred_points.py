"""Points less their mean, a slab at a time: the numbers of all at once, and what is made of them is no other."""

import numpy as np
import pytest
import torch

from flowpairs.pipeline.ot import solve_sinkhorn
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.sinkhorn import gaussian_potential as closed_form
from flowpairs.pipeline.ot.tiles import centred_points
from flowpairs.pipeline.ot.tiles.centred_points import centred, slabs_of
from flowpairs.pipeline.ot.tiles.kernel import LOG2E, kernel_of
from flowpairs.pipeline.ot.tiles.logits import FewInnerLogits, InnerLogits


def points(k: int, d: int) -> torch.Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(k)) * torch.linspace(0.1, 2, d) + 5


@pytest.fixture
def slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of a few rows."""
    monkeypatch.setattr(centred_points, "CPU_SLAB", 100)


@pytest.mark.usefixtures("slabs")
def test_moments_are_those_of_numpy() -> None:
    x, order = points(90, 7), torch.randperm(90)[:60]
    weights = torch.rand(60, dtype=torch.float64)
    weights /= weights.sum()
    ours = centred(x, weights, order)
    assert len(slabs_of(ours)) == 5
    chosen, a = x.double().numpy()[order.numpy()], weights.numpy()
    centre = np.average(chosen, axis=0, weights=a)
    np.testing.assert_allclose(ours.centre, centre, rtol=1e-14)
    np.testing.assert_allclose(ours.gram(weights), np.cov(chosen.T, aweights=a, bias=True), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ours.each(lambda own: own.square().sum(1)), ((chosen - centre) ** 2).sum(1), rtol=1e-13)
    np.testing.assert_allclose(ours.each_as_given(lambda own: own.sum(1)), chosen.sum(1), rtol=1e-14)
    some = torch.tensor([3, 50, 3])
    np.testing.assert_array_equal(ours.restrict(some)[:], ours[some])


@pytest.mark.usefixtures("slabs")
@pytest.mark.parametrize("exact", [False, True])
def test_logits_of_few_rows_are_those_of_all(exact: bool) -> None:
    problem = Problem(points(50, 20), points(40, 20), 2.0, cost="sqeuclidean")
    gamma = torch.linspace(-3, 3, 40, dtype=torch.float64)
    logits, rows = kernel_of(problem).bound(gamma, problem.eps, exact=exact), torch.tensor([7, 0, 31])
    few = logits.restrict(rows, None)
    assert isinstance(few, FewInnerLogits)
    assert isinstance(logits, InnerLogits)
    x, y = (side.double() - side.double().mean(0) for side in (problem.x0, problem.x1))
    truth = 2 * LOG2E / problem.eps * x @ y.T + gamma
    close = {"rtol": 0, "atol": 1e-11 if exact else 3e-4}
    for found, wanted in (
        (few.tile(slice(0, 3), few.empty(3, 40)), truth[rows]),
        (logits.tile(slice(10, 50), logits.empty(40, 40)), truth[10:]),
    ):
        torch.testing.assert_close(found.double(), wanted, **close)


@pytest.mark.parametrize(("cost", "directions"), [("dot", 512), ("sqeuclidean", 512), ("dot", 4)])
def test_a_solve_by_slabs_is_that_of_all_at_once(cost: str, directions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "DIRECTIONS", directions)
    a = torch.linspace(0, 1, 300, dtype=torch.float64)
    problem = Problem(points(300, 8), points(250, 8), 1.0, a / a.sum(), cost=cost).at(0.05)
    whole = solve_sinkhorn(problem, tol=1e-9)
    monkeypatch.setattr(centred_points, "CPU_SLAB", 100)
    parts = solve_sinkhorn(problem, tol=1e-9)
    assert parts.report.passes == whole.report.passes
    for ours, theirs in ((parts.f, whole.f), (parts.g, whole.g)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * problem.eps)
    assert parts.report.cost_coupled == pytest.approx(whole.report.cost_coupled, rel=1e-8)
