"""The entropic coupling against POT, closed forms and plans written down in float64."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import ot
import pytest
import torch
from ot_problems import blobs, dense, random_weights

from pipeline.errors import InputError
from pipeline.ot import Problem, cost_std, solve_sinkhorn


@pytest.mark.parametrize(("n", "m", "d"), [(60, 60, 3), (40, 90, 1), (90, 40, 5)])
def test_plan_is_pots(n: int, m: int, d: int) -> None:
    problem = blobs(n, m, d, rel_eps=0.1, dtype=torch.float64)
    problem = replace(problem, a=random_weights(n, 0, 1), b=random_weights(m, 0, 2))
    coupling = solve_sinkhorn(problem, tol=1e-7)
    plan, cost = dense(problem, coupling.f, coupling.g)
    a, b = problem.weights()
    theirs = ot.sinkhorn(a, b, cost, problem.eps, method="sinkhorn_log", stopThr=1e-9, numItermax=100_000)
    assert (plan - theirs).abs().sum() < 1e-5


def test_report_is_that_of_the_plan() -> None:
    problem = blobs(150, 100, 4, rel_eps=0.05)
    coupling = solve_sinkhorn(problem, tol=1e-2)
    report = coupling.report
    plan, cost = dense(problem, coupling.f, coupling.g)
    squared = torch.cdist(problem.x0.double(), problem.x1.double()).square()
    entropy = -(plan * plan.log()).nan_to_num().sum()
    mean_entropy = (math.log(150) + math.log(100)) / 2
    assert (plan.sum(1) - 1 / 150).abs().sum().item() == pytest.approx(report.source_error, abs=1e-5)
    assert (plan.sum(0) - 1 / 100).abs().sum().item() == pytest.approx(report.target_error, abs=1e-5)
    assert report.target_error < 1e-2
    assert report.entropy == pytest.approx((entropy / mean_entropy - 1).item(), abs=1e-5)
    assert report.partners == pytest.approx(math.exp(entropy - mean_entropy), rel=1e-4)
    assert report.cost_coupled == pytest.approx((plan * squared).sum().item(), rel=1e-4)
    assert report.cost_independent == pytest.approx(squared.mean().item(), rel=1e-5)
    assert report.rel_eps == pytest.approx(problem.eps / cost.std(correction=0).item())


def test_closed_form_of_gaussians() -> None:
    """Entropic transport between N(0, s0^2) and N(0, s1^2), on a grid fine enough to stand for the line."""
    eps, s0, s1 = 0.3, 0.8, 1.5
    grid = torch.linspace(-9, 9, 400, dtype=torch.float64)[:, None]
    a, b = (torch.softmax(-0.5 * (grid[:, 0] / s) ** 2, 0) for s in (s0, s1))
    problem = Problem(grid, grid, eps, a, b)
    coupling = solve_sinkhorn(problem, tol=1e-8)
    plan = dense(problem, coupling.f, coupling.g).plan
    covariance = (plan * grid * grid.T).sum().item()
    assert covariance == pytest.approx(math.sqrt((s0 * s1) ** 2 + eps**2 / 4) - eps / 2, rel=1e-5)


def test_large_eps_is_independent_and_small_eps_a_permutation(shared_data: Path) -> None:
    pairs = np.load(shared_data / "w2_benchmark" / "pairs.npz")
    shuffle = torch.randperm(1024, generator=torch.Generator().manual_seed(0))
    x0, x1 = torch.from_numpy(pairs["x_4"][:1024]), torch.from_numpy(pairs["y_4"][:1024])[shuffle]
    std = cost_std(x0, x1)
    wide = solve_sinkhorn(Problem(x0, x1, 100 * std)).report
    assert wide.entropy == pytest.approx(1, abs=1e-3)
    assert wide.cost_coupled == pytest.approx(wide.cost_independent, rel=1e-2)
    sharp = solve_sinkhorn(Problem(x0, x1, 1e-3 * std))
    assert sharp.report.converged
    best = dense(sharp.problem, sharp.f, sharp.g).plan.argmax(1)
    assert (shuffle[best] == torch.arange(1024)).double().mean() > 0.9
    assert sharp.report.entropy < 0.1


def test_offsets_move_potentials_only() -> None:
    """Data 1e4 away from the origin couple as the same float32 data at the origin do, solved in float64."""
    far = blobs(200, 200, 4, rel_eps=0.05, offset=1e4)
    home = Problem(far.x0.double() - 1e4, far.x1.double() + 1e4, far.eps)
    ours, truth = solve_sinkhorn(far, tol=1e-5), solve_sinkhorn(home, tol=1e-7)
    distance = dense(far, ours.f, ours.g).plan - dense(home, truth.f, truth.g).plan
    assert distance.abs().sum() < 1e-3


def test_zero_weights_change_nothing_for_the_others() -> None:
    problem = blobs(120, 80, 3, rel_eps=0.1, dtype=torch.float64)
    a, b = random_weights(120, 30, 3), random_weights(80, 20, 4)
    full = solve_sinkhorn(replace(problem, a=a, b=b), tol=1e-7)
    i, j = a > 0, b > 0
    part = solve_sinkhorn(Problem(problem.x0[i], problem.x1[j], problem.eps, a[i], b[j]), tol=1e-7)
    plan = dense(full.problem, full.f, full.g).plan
    assert torch.isfinite(full.f).all()
    assert torch.isfinite(full.g).all()
    assert (plan[i][:, j] - dense(part.problem, part.f, part.g).plan).abs().sum() < 1e-5
    assert plan[:, ~j].sum() == 0
    # The potentials of idle rows still satisfy the other side's equation (math: f = softmin g with weights b).
    cost = dense(full.problem, full.f, full.g).cost
    assert torch.allclose(full.f, -problem.eps * ((full.g - cost) / problem.eps + b.log()).logsumexp(1), atol=1e-6)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 1)])
def test_single_rows(n: int, m: int) -> None:
    problem = blobs(n, m, 1, rel_eps=1.0)
    problem = replace(problem, eps=1.0)
    coupling = solve_sinkhorn(problem)
    plan = dense(problem, coupling.f, coupling.g).plan
    assert torch.allclose(plan, torch.full_like(plan, 1 / (n * m)), atol=1e-6)
    assert coupling.report.entropy == pytest.approx(0 if n == m else 1, abs=1e-6)


def test_duplicates_share_alike() -> None:
    problem = blobs(50, 25, 2, rel_eps=0.05, dtype=torch.float64)
    twice = Problem(problem.x0, problem.x1.repeat(2, 1), problem.eps)
    once, both = solve_sinkhorn(problem, tol=1e-8), solve_sinkhorn(twice, tol=1e-8)
    halves = dense(twice, both.f, both.g).plan.reshape(50, 2, 25)
    assert torch.allclose(halves[:, 0], halves[:, 1], atol=1e-9)
    assert (halves.sum(1) - dense(problem, once.f, once.g).plan).abs().sum() < 1e-6


def test_float32_reaches_small_eps() -> None:
    single = blobs(400, 400, 16, rel_eps=1e-3)
    double = replace(single, x0=single.x0.double(), x1=single.x1.double())
    ours = solve_sinkhorn(single, max_passes=2000)
    error = (dense(double, ours.f, ours.g).plan.sum(0) - 1 / 400).abs().sum().item()
    assert ours.report.converged
    assert error == pytest.approx(ours.report.target_error, abs=2e-3)


def test_warm_start_is_where_it_says() -> None:
    problem = blobs(300, 300, 4, rel_eps=0.05)
    cold = solve_sinkhorn(problem)
    warm = solve_sinkhorn(problem, g0=cold.g)
    assert warm.report.passes == 1
    assert warm.report.target_error == pytest.approx(cold.report.target_error, rel=0.05)


def test_stopping_early_is_told() -> None:
    problem = blobs(300, 300, 4, rel_eps=0.01, dtype=torch.float64)
    seen: list[tuple[int, float]] = []
    coupling = solve_sinkhorn(problem, tol=1e-12, max_passes=3, progress=lambda *now: seen.append(now))
    report = coupling.report
    error = (dense(problem, coupling.f, coupling.g).plan.sum(0) - 1 / 300).abs().sum().item()
    assert not report.converged
    assert report.passes <= 3
    assert report.target_error == pytest.approx(error, rel=1e-2)
    assert seen[-1] == (report.passes, report.target_error)


@pytest.mark.parametrize("threads", [1, 3])
def test_bits_do_not_depend_on_threads(threads: int) -> None:
    problem = blobs(1500, 1700, 8, rel_eps=0.05)
    usual = torch.get_num_threads()
    reference = solve_sinkhorn(problem)
    torch.set_num_threads(threads)
    try:
        other = solve_sinkhorn(problem)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(usual)
    assert torch.equal(reference.g, other.g)
    assert torch.equal(reference.f, other.f)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": 0.0}, "eps=0.0"),
        ({"eps": math.nan}, "eps=nan"),
        ({"x1": torch.zeros(0, 3)}, "x1: shape"),
        ({"x1": torch.zeros(5, 3, dtype=torch.float64)}, "make them agree"),
        ({"x0": torch.full((5, 3), math.nan)}, "x0: holds values"),
        ({"b": torch.full((5,), 0.3)}, "b: weights"),
        ({"a": torch.tensor([2.0, -1.0, 0.0, 0.0, 0.0])}, "a: weights"),
    ],
)
def test_bad_problems_are_refused_by_name(change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve_sinkhorn(Problem(**{"x0": torch.randn(5, 3), "x1": torch.randn(5, 3), "eps": 1.0} | change))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tol": 0.0}, "tol=0.0"), ({"max_passes": 0}, "max_passes=0"), ({"g0": torch.zeros(3)}, "g0: shape")],
)
def test_bad_options_are_refused_by_name(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve_sinkhorn(Problem(torch.randn(5, 3), torch.randn(5, 3), 1.0), **options)


def test_cost_std_is_the_dense_one() -> None:
    problem = blobs(70, 50, 6, rel_eps=1.0, offset=1e4)
    a, b = random_weights(70, 10, 5), random_weights(50, 10, 6)
    cost = -(problem.x0.double() @ problem.x1.double().T)
    weight = a[:, None] * b
    centre = (weight * cost).sum()
    truth = (weight * (cost - centre) ** 2).sum().sqrt().item()
    assert cost_std(problem.x0, problem.x1, a, b) == pytest.approx(truth, rel=1e-6)
