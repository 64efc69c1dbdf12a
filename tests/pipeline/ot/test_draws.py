"""Balanced draws, and draws from couplings that are stored rather than computed: the right counts, the least cost."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import chisquare
from support.ot_problems import blobs, random_weights, uniforms

from flowpairs.pipeline.ot import Problem, independent, solve_exact, solve_for_sharpness, solve_sinkhorn
from flowpairs.pipeline.ot.partners.balance import capacities
from flowpairs.pipeline.ot.partners.rounding import round_masses

GOLDEN = [[5, 3, 4, 1, 2, 0], [5, 3, 4, 2, 0, 1], [5, 2, 1, 4, 0, 3]]


def permutation(m: int, seed: int = 0) -> torch.Tensor:
    return torch.randperm(m, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "m"), [(2200, 2200), (2200, 900), (1100, 2200), (60, 60), (1, 5), (5, 1)])
def test_balanced_uses_every_datum_equally(n: int, m: int) -> None:
    coupling = solve_sinkhorn(blobs(n, m, 4, rel_eps=0.1))
    drawn = coupling.draw_balanced(uniforms(n), permutation(m))
    counts = drawn.bincount(minlength=m)
    assert counts.min() >= n // m
    assert counts.max() <= -(-n // m)
    assert n == 1 or m == 1 or not torch.equal(drawn, coupling.draw_balanced(uniforms(n, seed=1), permutation(m)))


def test_balanced_counts_follow_unequal_weights() -> None:
    """Each datum n b_j times, rounded down or up, the latter as often as the fraction says; never one without mass."""
    b = random_weights(40, 10, 7)
    problem = blobs(200, 40, 4, rel_eps=0.1)
    coupling = solve_sinkhorn(Problem(problem.x0, problem.x1, problem.eps, None, b))
    share, draws = 200 * b.double() / b.double().sum(), 150
    total = torch.zeros(40)
    for seed in range(draws):
        counts = coupling.draw_balanced(uniforms(200, seed), permutation(40)).bincount(minlength=40)
        assert ((counts >= share.floor()) & (counts <= share.ceil())).all()
        total += counts
    odd = (total / draws - share) / ((share - share.floor()) * (share.ceil() - share) / draws).sqrt().clamp(min=1e-3)
    assert odd.abs().max() < 5


@pytest.mark.parametrize(
    ("sharpness", "draws"),
    [(0.5, 300), *(pytest.param(level, 3000, marks=pytest.mark.nightly) for level in (0.9, 0.5, 0.1))],
)
def test_balanced_pairs_come_as_often_as_the_plan_says(sharpness: float, draws: int) -> None:
    """Chi-square of pair counts, each with its own variance, and the mean cost.

    In a sharp plan many pairs hang together in a few cycles, so few of the counts are free.
    """
    n = 64
    coupling = solve_for_sharpness(blobs(n, n, 4, rel_eps=0.1), sharpness, tol=1e-4)
    problem = coupling.problem
    x0, x1 = problem.x0.double(), problem.x1.double()
    plan = ((coupling.g[None] + x0 @ x1.T) / problem.eps).softmax(1)
    rows, counts = torch.arange(n), torch.zeros(n, n, dtype=torch.float64)
    for seed in range(draws):
        counts[rows, coupling.draw_balanced(uniforms(n, seed), permutation(n))] += 1
    square = (counts - draws * plan).square() / (draws * plan * (1 - plan))
    seen = (draws * plan > 5) & (draws * (1 - plan) > 5)
    assert square[seen].mean() < 1 + 5 * (2 / (0.2 * int(seen.sum()))) ** 0.5
    cost = torch.cdist(x0, x1).square()
    assert (counts * cost).sum().item() / (n * draws) == pytest.approx((plan * cost).sum().item() / n, rel=0.005)


def test_balanced_coins_are_those_of_the_format() -> None:
    """Written down as found: another stream would resume a job with other pairs."""
    n = 6
    rows, columns = (part.ravel() for part in np.indices((n, n)))
    even = np.full(n * n, 1 / n)
    assert [round_masses(rows, columns, even, n, bytes([k])).tolist() for k in range(3)] == GOLDEN


@pytest.mark.parametrize("n", [512, 1500])
@pytest.mark.parametrize("rel_eps", [1.0, 0.1, 0.01])
def test_balanced_costs_what_the_plan_does(n: int, rel_eps: float) -> None:
    """At every size and eps, small or large enough for a sparse representation; the mean of some draws."""
    problem = blobs(n, n, 4, rel_eps=rel_eps)
    coupling = solve_sinkhorn(problem)
    drawn = [coupling.draw_balanced(uniforms(n, seed), permutation(n)) for seed in range(4)]
    costs = torch.stack([(problem.x0 - problem.x1[partners]).square().sum(1).mean() for partners in drawn])
    assert costs.mean().item() == pytest.approx(coupling.report.cost_coupled, rel=0.02)


def test_capacities_round_up_as_often_as_their_fractions_say() -> None:
    b = torch.tensor([0.5, 0.25, 0.13, 0.12, 0.0], dtype=torch.float64)
    # n b = 5, 2.5, 1.3, 1.2, 0: one is left to give, where .5, .8, 1. or another sum passes a half.
    assert capacities(b, 10, torch.arange(5)).tolist() == [5, 3, 1, 1, 0]
    assert capacities(b, 10, torch.tensor([2, 3, 4, 1, 0])).tolist() == [5, 2, 1, 2, 0]
    weights = random_weights(40, 8, 3)
    rooms = torch.stack([capacities(weights, 25, permutation(40, seed)) for seed in range(2000)]).double()
    assert (rooms - 25 * weights).abs().max() < 1
    assert torch.allclose(rooms.mean(0), 25 * weights, atol=0.05)
    assert torch.equal(rooms.sum(1), torch.full((2000,), 25.0, dtype=torch.float64))
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
