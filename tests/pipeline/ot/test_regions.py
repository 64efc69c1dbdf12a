"""Couplings of regions against POT's plans, dense float64 sums, and the plan of the whole problem."""

import math

import numpy as np
import ot as pot
import pytest
import torch
from support.ot_problems import costs, uniforms
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem, solve_in_regions, solve_sinkhorn
from flowpairs.pipeline.ot.regions.coupling import RegionCoupling
from flowpairs.pipeline.ot.regions.cutting import cut
from flowpairs.pipeline.ot.regions.loss_bound import LossBound, bound_loss


def clusters(n: int, d: int, rel_eps: float, cost: str = "dot", apart: float = 1.5, seed: int = 0) -> Problem:
    """Noise and as many points of eight clusters, the data off the origin."""
    random = torch.Generator().manual_seed(seed)
    x0, x1 = (torch.randn(n, d, generator=random, dtype=torch.float64) for _ in range(2))
    centres = apart * torch.randn(8, d, generator=random, dtype=torch.float64)
    x1 = centres[torch.randint(0, 8, (n,), generator=random)] + 0.4 * x1 + 0.5
    return Problem(x0, x1, 1.0, cost=cost).at(rel_eps)


def plan_of(coupling: RegionCoupling) -> Tensor:
    """The whole plan, written down region by region."""
    whole = torch.zeros(coupling.problem.n, coupling.problem.m, dtype=torch.float64)
    cost = costs(coupling.problem)
    for rows, columns, part in coupling.parts:
        logits = (part.f[:, None] + part.g - cost[rows][:, columns]) / part.problem.eps
        whole[rows[:, None], columns] = logits.exp() / len(columns) / coupling.problem.n
    return whole


def proved(coupling: RegionCoupling, bound: LossBound) -> float:
    """What a bound's eps and potential prove, by dense sums and weak duality alone."""
    cost, plan, e = costs(coupling.problem), plan_of(coupling), bound.eps
    n = coupling.problem.n
    kl = torch.special.xlogy(plan, plan * n * n).sum()
    dual = bound.g.mean() - e * (torch.logsumexp((bound.g - cost) / e, 1) - math.log(n)).mean()
    return float(((plan * cost).sum() + e * kl - dual) / (1 - e / coupling.problem.eps))


def bound_of(coupling: RegionCoupling) -> LossBound:
    regions = cut(coupling.problem, len(coupling.parts))
    return bound_loss(coupling.problem, regions, [part.coupling for part in coupling.parts])


@pytest.mark.parametrize("cost", ["dot", "sqeuclidean"])
@pytest.mark.parametrize(("d", "count", "rel_eps"), [(2, 4, 0.1), (2, 7, 0.02), (8, 3, 0.03), (8, 16, 0.1)])
def test_the_loss_against_pots_plan_is_within_the_bound(d: int, count: int, rel_eps: float, cost: str) -> None:
    problem = clusters(250, d, rel_eps, cost)
    found = solve_in_regions(problem, count, tol=1e-6)
    report, plan = found.report, plan_of(found)
    squares = torch.cdist(problem.x0, problem.x1, compute_mode="donot_use_mm_for_euclid_dist").square()
    uniform = np.full(250, 1 / 250)
    whole = pot.bregman.sinkhorn_log(
        uniform, uniform, costs(problem).numpy(), problem.eps, numItermax=5000, stopThr=1e-7
    )
    assert np.abs(plan.sum(0).numpy() - uniform).sum() < 1e-5
    assert report.cost_coupled == pytest.approx(float((plan * squares).sum()), rel=1e-6)
    assert report.cost_independent == pytest.approx(float(squares.mean()), rel=1e-6)
    nats = -float(torch.special.xlogy(plan, plan).sum())
    assert report.sharpness == pytest.approx(nats / math.log(250) - 1, abs=1e-6)
    loss = report.cost_coupled - float((whole * squares.numpy()).sum())
    assert loss <= report.loss_bound + 1e-5
    assert report.loss_error == 0, "all rows are measured"
    assert report.loss_bound < 0.3 * (report.cost_independent - report.cost_coupled), "the bound says something"
    least = pot.emd2([], [], squares.numpy())
    squared_eps = problem.eps * (2 if cost == "dot" else 1)
    assert report.cost_coupled - report.loss_bound <= least + squared_eps * math.log(250) + 1e-5
    assert least <= report.cost_coupled + 1e-5


@pytest.mark.parametrize("cost", ["dot", "sqeuclidean"])
def test_the_bound_is_what_its_potential_proves(cost: str) -> None:
    found = solve_in_regions(clusters(200, 4, 0.05, cost), 5, tol=1e-7)
    bound = bound_of(found)
    assert bound.value == pytest.approx(proved(found, bound), rel=1e-5)
    assert found.report.loss_bound == bound.value * (2 if cost == "dot" else 1)


def test_a_sampled_bound_has_the_error_that_it_says() -> None:
    found = solve_in_regions(clusters(2400, 4, 0.05), 3, tol=1e-6)
    bound = bound_of(found)
    assert 0 < bound.error < 0.1 * bound.value
    assert abs(bound.value - proved(found, bound)) < 4 * bound.error


def test_regions_that_are_clusters_of_both_sides_lose_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.0, 0], [60, 0], [0, 25], [60, 25]], dtype=torch.float64).repeat_interleave(40, 0)
    x0, x1 = (corners[torch.randperm(160, generator=random)] + torch.randn(160, 2, generator=random) for _ in range(2))
    problem = Problem(x0, x1, 0.3)
    whole, found = solve_sinkhorn(problem, tol=1e-6).report, solve_in_regions(problem, 4, tol=1e-6).report
    assert found.cost_coupled == pytest.approx(whole.cost_coupled, rel=1e-5)
    assert found.sharpness == pytest.approx(whole.sharpness, abs=1e-5)
    assert 0 <= found.loss_bound < 1e-4 * found.cost_independent


def test_one_region_is_the_whole_problem() -> None:
    problem, u = clusters(300, 3, 0.05), uniforms(300)
    one, whole = solve_in_regions(problem, 1), solve_sinkhorn(problem)
    assert torch.equal(one.draw(u), whole.draw(u))
    assert torch.equal(one.draw_balanced(u, torch.arange(300)), whole.draw_balanced(u, torch.arange(300)))
    assert (one.report.loss_bound, one.report.loss_error) == (0, 0)
    assert one.report.cost_coupled == pytest.approx(whole.report.cost_coupled, rel=1e-9)


@pytest.mark.parametrize("count", [2, 5, 64])
def test_regions_are_a_partition_of_equal_parts(count: int) -> None:
    problem = clusters(331, 3, 0.1)
    for side in zip(*cut(problem, count), strict=True):
        assert torch.equal(torch.cat(side).sort().values, torch.arange(331))
        sizes = {len(part) for part in side}
        assert sizes <= {331 // count, 331 // count + 1}


def test_source_rows_go_to_centres_at_the_least_cost() -> None:
    problem = clusters(240, 3, 0.1, "sqeuclidean")
    regions = cut(problem, 6)
    centres = torch.stack([problem.x1[region.columns].mean(0) for region in regions])
    cost = torch.cdist(problem.x0, centres).square()
    ours = sum(float(cost[region.rows, k].sum()) for k, region in enumerate(regions)) / 240
    assert ours == pytest.approx(pot.emd2([], [], cost.numpy()), rel=2e-3)


def test_draws_follow_the_plan_and_stay_in_regions() -> None:
    found = solve_in_regions(clusters(200, 3, 0.3), 4, tol=1e-6)
    plan, order = plan_of(found), torch.randperm(200, generator=torch.Generator().manual_seed(1))
    counts = torch.zeros_like(plan)
    for seed in range(400):
        counts[torch.arange(200), found.draw(uniforms(200, seed))] += 1
    expected = 400 * 200 * plan
    assert (counts[plan == 0] == 0).all()
    kept = expected > 1
    chi2 = ((counts - expected)[kept].square() / expected[kept]).sum() / kept.sum()
    assert 0.8 < chi2 < 1.2
    drawn = found.draw_balanced(uniforms(200), order)
    assert torch.equal(drawn.sort().values, torch.arange(200)), "every datum once"
    assert (plan[torch.arange(200), drawn] > 0).all()


def test_whatever_else_a_coupling_tells_is_of_the_whole_plan() -> None:
    found = solve_in_regions(clusters(200, 3, 0.2), 4, tol=1e-6)
    plan, values = plan_of(found), torch.randn(200, 2, dtype=torch.float64)
    assert torch.equal(found.argmax(), plan.argmax(1))
    torch.testing.assert_close(found.barycentric(values), 200 * plan @ values, atol=1e-5, rtol=0)
    assert torch.equal(found.swapped().argmax(), plan.argmax(0))
    rows = torch.tensor([7, 150, 7, 3])
    assert torch.equal(found.chosen(rows).draw(uniforms(200)[rows]), found.draw(uniforms(200))[rows])
    back = found.swapped().chosen(rows)
    assert torch.equal(back.argmax(), plan.argmax(0)[rows])


def test_points_that_are_all_equal_are_coupled() -> None:
    x0 = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    found = solve_in_regions(Problem(x0, torch.ones(20, 2), 1.0), 3)
    assert torch.equal(found.draw_balanced(uniforms(20), torch.arange(20)).sort().values, torch.arange(20))
    assert 0 < found.report.loss_bound < 0.2, "of a loss of nothing, but of entropy"


def test_what_has_no_regions_is_refused() -> None:
    problem = clusters(20, 2, 0.1)
    half = torch.full((20,), 0.05, dtype=torch.float64)
    for wrong, count, sentence in [
        (problem, 11, "regions=11: a region takes two rows"),
        (problem, 0, "regions=0"),
        (Problem(problem.x0[:19], problem.x1, 1.0), 2, "19 and 20 rows"),
        (Problem(problem.x0, problem.x1, 1.0, a=half), 2, "without weights"),
        (Problem(problem.x0, problem.x1, 1.0, cost=torch.cdist), 2, "give dot or sqeuclidean"),
    ]:
        with pytest.raises(InputError, match=sentence):
            solve_in_regions(wrong, count)
