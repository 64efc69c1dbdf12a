"""Costs other than the dot product, against POT on the dense cost matrix."""

from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from support.ot_problems import blobs, costs, dense, random_weights

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem, cost_std, solve_exact, solve_sinkhorn
from flowpairs.pipeline.ot.costs.cost import Cost, moments
from flowpairs.pipeline.ot.sinkhorn import descent


def manhattan(x0: torch.Tensor, x1: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x0, x1, p=1)


def weighted(n: int, m: int, cost: Cost, rel_eps: float = 0.1, offset: float = 0.0) -> Problem:
    problem = blobs(n, m, 3, 1.0, dtype=torch.float64, offset=offset)
    problem = replace(problem, a=random_weights(n, 0, 1), b=random_weights(m, 0, 2), cost=cost)
    return problem.at(rel_eps)


@pytest.mark.parametrize("cost", ["dot", "sqeuclidean", manhattan])
def test_plan_and_report_are_pots(cost: Cost) -> None:
    problem = weighted(60, 80, cost)
    a, b = problem.weights()
    coupling = solve_sinkhorn(problem, tol=1e-8)
    plan, matrix = dense(problem, coupling.f, coupling.g)
    dense_problem = (part.numpy() for part in (a, b, matrix))
    theirs = ot.sinkhorn(*dense_problem, problem.eps, method="sinkhorn_log", stopThr=1e-9, numItermax=100_000)
    assert np.abs(plan.numpy() - theirs).sum() < 1e-6
    reported = matrix if callable(cost) else costs(replace(problem, cost="sqeuclidean"))
    assert coupling.report.cost_coupled == pytest.approx((theirs * reported.numpy()).sum(), rel=1e-6)
    assert coupling.report.cost_independent == pytest.approx((a @ reported @ b).item(), rel=1e-9)
    assert coupling.report.rel_eps == pytest.approx(0.1, rel=1e-9)


@pytest.mark.parametrize("cost", ["sqeuclidean", manhattan])
def test_exact_is_pots(cost: Cost) -> None:
    problem = weighted(50, 70, cost)
    a, b = problem.weights()
    coupling = solve_exact(problem)
    matrix = costs(problem)
    assert coupling.report.cost_coupled == pytest.approx(ot.emd2(a, b, matrix).item(), rel=1e-9)
    dual = (a @ (matrix - coupling.g).amin(1) + b @ coupling.g).item()
    assert coupling.report.cost_coupled == pytest.approx(dual, rel=1e-9)


@pytest.mark.parametrize("cost", ["dot", "sqeuclidean", manhattan])
def test_moments_are_the_dense_ones(cost: Cost) -> None:
    problem = weighted(70, 50, cost, offset=1e4)
    a, b = problem.weights()
    matrix = costs(problem)
    mean = a @ matrix @ b
    std = (a @ (matrix - mean).square() @ b).sqrt()
    assert moments(cost, problem.x0, problem.x1, a, b) == pytest.approx((mean.item(), std.item()), rel=1e-9)
    single = cost_std(problem.x0.float(), problem.x1.float(), a, b, cost)
    # A float32 distance at an offset of 1e4 has five digits, of which the deviation takes its few.
    assert single == pytest.approx(std.item(), rel=1e-2 if callable(cost) else 1e-4)


def test_a_thinned_start_leads_to_the_same_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost without a closed-form start begins on some of the rows where there are many."""
    problem = weighted(300, 500, manhattan)
    start = solve_sinkhorn(problem, tol=1e-7)
    monkeypatch.setattr(descent, "SMALL", 1000)
    thinned = solve_sinkhorn(problem, tol=1e-7)
    assert not torch.equal(start.g, thinned.g)
    plans = [dense(problem, coupling.f, coupling.g).plan for coupling in (start, thinned)]
    assert (plans[0] - plans[1]).abs().sum() < 1e-5


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (lambda x0, x1: torch.cdist(x0, x1).sum(1), r"cost: returned shape \(5,\) for tiles of \(5, 3\) and \(4, 3\)"),
        (lambda x0, x1: torch.cdist(x0, x1) / 0, "cost: returned values that are not finite"),
    ],
)
def test_bad_cost_functions_are_refused(cost: Cost, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve_sinkhorn(Problem(torch.ones(5, 3), torch.zeros(4, 3), 1.0, cost=cost))
