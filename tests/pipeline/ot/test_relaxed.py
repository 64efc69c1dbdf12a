"""Unbalanced and semi-relaxed couplings against POT, a plain loop, a closed form, and the balanced limit."""

import math
from pathlib import Path

import numpy as np
import ot as pot
import pytest
import torch
from support.teams import in_teams
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Coupling, Problem, Relax, solve_relaxed, solve_sinkhorn
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team

INF = math.inf


def problem(n: int, m: int, rel_eps: float, seed: int = 0) -> Problem:
    """Two clouds of points with weights, one of which has an outlying part."""
    random = torch.Generator().manual_seed(seed)
    x0, x1 = (torch.randn(k, 3, generator=random, dtype=torch.float64) for k in (n, m))
    x1[: m // 5] += 4
    a, b = (torch.rand(k, generator=random, dtype=torch.float64) + 0.2 for k in (n, m))
    return Problem(x0, x1 * 1.3, 1.0, a / a.sum(), b / b.sum(), "sqeuclidean").at(rel_eps)


def std_of(problem: Problem) -> float:
    assert problem.cost_moments is not None
    return problem.cost_moments.std


def relative(problem: Problem, source: float, target: float) -> Relax:
    return Relax(source * std_of(problem), target * std_of(problem))


def plan(coupling: Coupling, cost: Tensor) -> Tensor:
    """The whole plan, with its mass."""
    a, b = coupling.problem.weights()
    dual = (coupling.f[:, None] + coupling.g[None] - cost) / coupling.problem.eps
    return coupling.report.mass * a[:, None] * b[None] * dual.exp()


def squared_distances(problem: Problem) -> Tensor:
    return torch.cdist(problem.x0, problem.x1, compute_mode="donot_use_mm_for_euclid_dist").square()


def by_plain_loop(problem: Problem, relax: Relax, rounds: int = 20_000) -> Tensor:
    """Alternating updates of the potentials in float64 (Chizat et al. 2018, proposition 4)."""
    cost, (a, b), eps = squared_distances(problem), problem.weights(), problem.eps
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    damped = [1.0 if price == INF else price / (price + eps) for price in (relax.source, relax.target)]
    for _ in range(rounds):
        f = -damped[0] * eps * torch.logsumexp(b.log() + (g - cost) / eps, 1)
        g = -damped[1] * eps * torch.logsumexp(a.log()[:, None] + (f[:, None] - cost) / eps, 0)
    return a[:, None] * b[None] * ((f[:, None] + g[None] - cost) / eps).exp()


@pytest.mark.parametrize(("source", "target"), [(1.0, 1.0), (INF, 1.0), (0.3, INF), (10.0, 0.1), (0.1, 0.1)])
def test_plans_are_pots(source: float, target: float) -> None:
    given = problem(80, 110, 0.1)
    relax, cost = relative(given, source, target), squared_distances(given)
    found = solve_relaxed(given, relax, tol=1e-6)
    assert found.report.converged
    parts = (part.numpy() for part in (*given.weights(), cost))
    wanted = pot.unbalanced.sinkhorn_unbalanced(
        *parts, given.eps, (relax.source, relax.target), reg_type="kl", numItermax=20_000, stopThr=1e-12
    )
    apart = np.abs(plan(found, cost).numpy() - wanted).sum() / wanted.sum()
    assert apart < 3e-6
    assert apart < found.report.plan_error + 1e-9, "the bound holds"
    assert found.report.mass == pytest.approx(wanted.sum(), rel=1e-6)


@pytest.mark.parametrize("rel_eps", [0.03, 0.01])
@pytest.mark.parametrize(("source", "target"), [(1.0, 0.3), (INF, 0.3)])
def test_small_eps_takes_few_passes_to_the_plan_of_a_plain_loop(rel_eps: float, source: float, target: float) -> None:
    given = problem(40, 50, rel_eps)
    relax, cost = relative(given, source, target), squared_distances(given)
    found = solve_relaxed(given, relax, tol=1e-6)
    wanted = by_plain_loop(given, relax)
    assert (plan(found, cost) - wanted).abs().sum() / wanted.sum() < 1e-5
    assert found.report.passes <= 8


def test_mass_between_gaussians_is_that_of_the_closed_form() -> None:
    """Janati, Muzellec, Peyre and Cuturi 2020 (arXiv 2006.02572), theorem 3, in one dimension."""

    def mass(a: float, var_a: float, b: float, var_b: float, sigma2: float, gamma: float) -> float:
        tau, lam = gamma / (2 * sigma2 + gamma), sigma2 + gamma / 2
        ours, theirs = (gamma / 2 * (1 - lam / (variance + lam)) for variance in (var_a, var_b))
        c = math.sqrt(ours * theirs / tau + sigma2**2 / 4) - sigma2 / 2
        inner = c * math.sqrt((ours * theirs) ** tau / (var_a * var_b))
        apart = math.exp(-((a - b) ** 2) / (var_a + var_b + lam) / (2 * (tau + 1)))
        scale = sigma2 ** (0.5 * sigma2 / (gamma + sigma2))
        return scale * inner ** (1 / (tau + 1)) * apart / math.sqrt(c - 2 / gamma * ours * theirs)

    x = torch.linspace(-12, 12, 801, dtype=torch.float64)[:, None]
    for a, var_a, b, var_b, sigma2, gamma in ((0, 1, 1, 2, 0.5, 1), (0, 1, 2, 0.5, 0.1, 3), (0, 2, 0, 1, 1, 10)):
        weights = (torch.softmax(-0.5 * (x[:, 0] - mean) ** 2 / var, 0) for mean, var in ((a, var_a), (b, var_b)))
        found = solve_relaxed(Problem(x, x, 2 * sigma2, *weights, "sqeuclidean"), Relax(gamma, gamma), tol=1e-7)
        assert found.report.mass == pytest.approx(mass(a, var_a, b, var_b, sigma2, gamma), rel=1e-6)


def test_dear_prices_give_the_balanced_plan_and_cheap_ones_leave_far_mass_out() -> None:
    given = problem(60, 90, 0.05)
    cost = squared_distances(given)
    balanced = solve_sinkhorn(given, tol=1e-6)
    near = solve_relaxed(given, relative(given, 1e5, 1e5), tol=1e-6)
    assert (plan(near, cost) - plan(balanced, cost)).abs().sum() < 1e-3
    assert near.report.mass == pytest.approx(1, abs=1e-3)
    cheap = solve_relaxed(given, relative(given, INF, 0.2))
    assert cheap.problem.weights()[1][: 90 // 5].sum() < 0.3 * given.weights()[1][: 90 // 5].sum()
    assert torch.equal(cheap.problem.weights()[0], given.weights()[0])


def test_float32_and_rows_of_zero_weight() -> None:
    given = problem(70, 60, 0.1)
    a, b = (weights.clone() for weights in given.weights())
    a[:5], b[10:20] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    single = Problem(given.x0.float(), given.x1.float(), given.eps, a, b, "sqeuclidean")
    found = solve_relaxed(single, Relax(given.eps * 10, given.eps * 5))
    assert found.report.converged
    ours, theirs = found.problem.weights()
    assert not ours[:5].any()
    assert not theirs[10:20].any()
    partners = found.draw(torch.linspace(0, 0.999, 70, dtype=torch.float64))
    assert not ((partners >= 10) & (partners < 20)).any()


def test_resumed_before_any_pass_it_ends_in_the_same_bits() -> None:
    given, records = problem(80, 60, 0.02), []

    def keep(arrays: dict[str, Tensor]) -> None:
        records.append({name: values.clone() for name, values in arrays.items()})

    relax = relative(given, 1.0, 0.5)
    whole = solve_relaxed(given, relax, save=keep)
    assert len(records) >= 2
    for record in records:
        again = solve_relaxed(given, relax, resume=record)
        assert torch.equal(again.g, whole.g)
        assert again.report.passes == whole.report.passes


def answer(team: Team) -> tuple[Tensor, Tensor, float]:
    given = problem(700, 300, 0.05)
    found = solve_relaxed(given, relative(given, 1.0, 0.5), team=team)
    return found.f, found.g, found.report.mass


def test_processes_that_share_the_rows_find_the_same_bits(tmp_path: Path) -> None:
    f, g, mass = answer(SINGLE)
    for members in in_teams(answer, (2,), tmp_path).values():
        for member in members:
            assert torch.equal(member[0], f)
            assert torch.equal(member[1], g)
            assert member[2] == mass


def test_bad_input_is_refused_in_a_sentence() -> None:
    given = problem(5, 6, 0.1)
    with pytest.raises(InputError, match="leaves out"):
        solve_relaxed(Problem(given.x0, given.x1, 1.0), Relax(1.0, 1.0))
    with pytest.raises(InputError, match=r"relax\.target=0\.0: a price of missing"):
        solve_relaxed(given, Relax(1.0, 0.0))
    with pytest.raises(InputError, match="g0: shape"):
        solve_relaxed(given, Relax(1.0, 1.0), g0=torch.zeros(3))
