"""Draws against the dense plan: the right frequencies, the right counts, the same on any tiling."""

import numpy as np
import pytest
import torch
from ot_problems import blobs, dense, random_weights
from scipy.optimize import linear_sum_assignment
from scipy.stats import chisquare

from pipeline.ot import Problem, independent, solve_exact, solve_sinkhorn, tiles
from pipeline.ot.balance import capacities


def uniforms(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def permutation(m: int, seed: int = 0) -> torch.Tensor:
    return torch.randperm(m, generator=torch.Generator().manual_seed(seed))


def test_draw_is_the_inverse_distribution_function() -> None:
    problem = blobs(300, 700, 3, rel_eps=0.2, dtype=torch.float64)
    problem = Problem(problem.x0, problem.x1, problem.eps, None, random_weights(700, 100, 1))
    coupling = solve_sinkhorn(problem)
    plan = dense(problem, coupling.f, coupling.g).plan.numpy()
    u = uniforms(300)
    truth = [
        int(np.searchsorted(np.cumsum(p) / p.sum(), v, side="right")) for p, v in zip(plan, u.tolist(), strict=True)
    ]
    assert coupling.draw(u).tolist() == truth


def test_extreme_uniforms_draw_possible_partners() -> None:
    problem = blobs(64, 300, 2, rel_eps=0.01)
    problem = Problem(problem.x0, problem.x1, problem.eps, None, random_weights(300, 150, 2))
    coupling = solve_sinkhorn(problem, tol=0.1)
    for u in (0.0, float(np.nextafter(1, 0))):
        drawn = coupling.draw(torch.full((64,), u, dtype=torch.float64))
        assert (problem.b[drawn] > 0).all()


def test_frequencies_are_those_of_the_plan() -> None:
    """Chi-square of 20,000 draws for the same source point; 1e-4 rejects a right sampler once in 10,000 seeds."""
    small = blobs(2, 40, 2, rel_eps=0.5)
    problem = Problem(small.x0[:1].repeat(20_000, 1), small.x1, small.eps)
    coupling = solve_sinkhorn(problem)
    expected = dense(problem, coupling.f, coupling.g).plan[0].numpy()
    counts = coupling.draw(uniforms(20_000)).bincount(minlength=40).numpy()
    assert chisquare(counts, expected / expected.sum() * 20_000).pvalue > 1e-4


def test_draws_do_not_depend_on_tiles_or_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = blobs(1000, 900, 8, rel_eps=0.1)
    coupling = solve_sinkhorn(problem)
    u = uniforms(1000)
    reference = coupling.draw(u)
    usual = torch.get_num_threads()
    for rows, threads in ((16, 1), (48, 3), (1000, 2)):
        monkeypatch.setattr(tiles, "tile_rows", lambda m, device, rows=rows: rows)
        torch.set_num_threads(threads)
        try:
            assert torch.equal(coupling.draw(u), reference)
        finally:
            torch.set_num_threads(usual)


@pytest.mark.parametrize(("n", "m"), [(3000, 3000), (3000, 1300), (1300, 3000)])
def test_balanced_uses_every_datum_equally(n: int, m: int) -> None:
    problem = blobs(n, m, 4, rel_eps=0.1)
    coupling = solve_sinkhorn(problem)
    order = permutation(m)
    counts = coupling.draw_balanced(uniforms(n), order).bincount(minlength=m)
    truth = torch.full((m,), n // m)
    truth[order[: n % m]] += 1
    assert torch.equal(counts, truth)


def test_balanced_stays_near_the_plan() -> None:
    """A balanced draw costs about what the plan does, though its last rows take what is left."""
    problem = blobs(3000, 3000, 4, rel_eps=0.03)
    coupling = solve_sinkhorn(problem)
    drawn = coupling.draw_balanced(uniforms(3000), permutation(3000))
    cost = (problem.x0 - problem.x1[drawn]).square().sum(1).mean().item()
    assert cost == pytest.approx(coupling.report.cost_coupled, rel=0.05)


def test_capacities_are_largest_remainders() -> None:
    b = torch.tensor([0.5, 0.25, 0.13, 0.12, 0.0], dtype=torch.float64)
    # n b = 5, 2.5, 1.3, 1.2, 0: two are left to give, to .5 and .3.
    assert capacities(b, 10, torch.arange(5)).tolist() == [5, 3, 1, 1, 0]
    tied = torch.full((3,), 1 / 3, dtype=torch.float32)
    assert capacities(tied, 4, torch.tensor([2, 0, 1])).tolist() == [1, 1, 2]


@pytest.mark.parametrize("n", [400, 450])
def test_exact_is_scipys_assignment(n: int) -> None:
    """Balanced draws of an exact plan are the assignment of least cost; with n = m so is every draw."""
    problem = blobs(n, 400, 3, rel_eps=0.1)
    cost = torch.cdist(problem.x0.double(), problem.x1.double()).square()
    order = permutation(400)
    slots = torch.cat([torch.arange(400), order[: n - 400]])
    i, j = linear_sum_assignment(cost[:, slots].numpy())
    coupling = solve_exact(problem)
    drawn = coupling.draw_balanced(uniforms(n), order)
    assert cost[torch.arange(n), drawn].sum().item() == pytest.approx(cost[i, slots[j]].sum().item(), rel=1e-9)
    if n == 400:
        assert torch.equal(drawn, coupling.draw(uniforms(n)))
        assert coupling.report.cost_coupled == pytest.approx(cost[i, slots[j]].mean().item(), rel=1e-9)


def test_independent_draws_follow_b() -> None:
    problem = blobs(20_000, 30, 2, rel_eps=1.0)
    problem = Problem(problem.x0, problem.x1, 1.0, None, random_weights(30, 10, 7))
    coupling = independent(problem)
    counts = coupling.draw(uniforms(20_000)).bincount(minlength=30).numpy()
    used = problem.b.numpy() > 0
    assert counts[~used].sum() == 0
    assert chisquare(counts[used], problem.b.numpy()[used] * 20_000).pvalue > 1e-4
    balanced = coupling.draw_balanced(uniforms(20_000), permutation(30))
    assert torch.equal(balanced.bincount(minlength=30), capacities(problem.b, 20_000, permutation(30)))
    assert len(set(balanced[:100].tolist())) > 5  # arranged at random, not sorted
