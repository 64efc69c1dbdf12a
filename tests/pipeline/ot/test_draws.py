"""Balanced draws, and draws from couplings that are stored rather than computed: the right counts, the least cost."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import chisquare
from support.ot_problems import blobs, random_weights, uniforms

from flowpairs.pipeline.ot import Problem, independent, solve_exact, solve_sinkhorn
from flowpairs.pipeline.ot.partners.balance import capacities


def permutation(m: int, seed: int = 0) -> torch.Tensor:
    return torch.randperm(m, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "m"), [(2200, 2200), (2200, 900), (1100, 2200)])
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
    problem = blobs(2200, 2200, 4, rel_eps=0.03)
    coupling = solve_sinkhorn(problem)
    drawn = coupling.draw_balanced(uniforms(2200), permutation(2200))
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
