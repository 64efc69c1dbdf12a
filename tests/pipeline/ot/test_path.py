"""The solver's path: how few passes it takes, what its parts promise, and how it ends on hard inputs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import ot
import pytest
import torch
from support.ot_problems import blobs, dense, random_weights

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem, Relax, cost_std, solve_for_sharpness, solve_relaxed, solve_sinkhorn
from flowpairs.pipeline.ot.sinkhorn import gaussian_potential as closed_form
from flowpairs.pipeline.ot.sinkhorn import surrogate, surrogate_part
from flowpairs.pipeline.ot.sinkhorn.anderson import Anderson
from flowpairs.pipeline.ot.sinkhorn.gaussian_potential import gaussian_potential
from flowpairs.pipeline.ot.sinkhorn.surrogate import Surrogate
from flowpairs.pipeline.ot.sinkhorn.surrogate_part import IntegerPart, SurrogatePart
from flowpairs.pipeline.ot.sinkhorn.sweep import sweep
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers


@pytest.fixture(scope="module")
def fashion(shared_data: Path) -> torch.Tensor:
    """Images along their principal directions."""
    images = np.load(shared_data / "fashion_mnist" / "train8000.npz")["images"][:2000]
    rows = torch.from_numpy(images.reshape(2000, -1)).float() / 127.5 - 1
    rows -= rows.mean(0)
    return rows @ torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)


@pytest.mark.parametrize("rel_eps", [0.3, 0.1, 0.03, 0.003])
def test_passes_do_not_grow_as_eps_falls(fashion: torch.Tensor, rel_eps: float) -> None:
    """Plain Sinkhorn takes 40 passes at .1 and hundreds from .03 down on this problem."""
    x1 = fashion[:, :64]
    x0 = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    report = solve_sinkhorn(Problem(x0, x1, rel_eps * cost_std(x0, x1))).report
    assert report.converged
    assert report.passes <= 6


def test_sharp_plan_costs_what_the_exact_one_does(fashion: torch.Tensor) -> None:
    """At rel_eps .001 the transport cost is within a few entropies of POT's optimum, and not below it."""
    x1 = fashion[:600, :16]
    x0 = torch.randn(600, 16, generator=torch.Generator().manual_seed(0))
    problem = Problem(x0, x1, 1e-3 * cost_std(x0, x1))
    report = solve_sinkhorn(problem, tol=1e-4).report
    best = ot.emd2([], [], torch.cdist(x0.double(), x1.double()).square().numpy(), numItermax=10**6)
    assert report.converged
    assert best * (1 - 1e-3) < report.cost_coupled < best + 2 * problem.eps * math.log(600)


def test_hard_inputs_converge() -> None:
    """Clusters, ties and a source that has to split: shapes on which the sparse step alone would starve columns."""
    random = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(20, 8, generator=random)
    clusters = centres[torch.randint(0, 20, (900,), generator=random)] + 0.05 * torch.randn(900, 8, generator=random)
    ties = torch.randn(30, 8, generator=random).repeat(30, 1)
    for x1 in (clusters, ties, torch.ones(900, 8)):
        x0 = torch.randn(900, 8, generator=random)
        for rel_eps in (0.1, 0.003):
            problem = Problem(x0, x1, rel_eps * (cost_std(x0, x1) or 1.0))
            coupling = solve_sinkhorn(problem)
            error = (dense(problem, coupling.f, coupling.g).plan.sum(0) - 1 / 900).abs().sum().item()
            assert coupling.report.converged
            assert error == pytest.approx(coupling.report.target_error, abs=1e-4)


def test_a_hopeless_start_is_dropped() -> None:
    problem = blobs(500, 500, 4, rel_eps=0.01)
    noise = 100 * torch.randn(500, generator=torch.Generator().manual_seed(0))
    cold, lost = solve_sinkhorn(problem).report, solve_sinkhorn(problem, g0=noise).report
    assert lost.converged
    assert lost.passes == cold.passes + 1


def test_gaussian_potential_is_that_of_gaussians() -> None:
    """On a grid that carries two Gaussians the closed form solves the discrete problem in one pass."""
    grid = torch.linspace(-9, 9, 400, dtype=torch.float64)[:, None]
    a, b = (torch.softmax(-0.5 * (grid[:, 0] / s) ** 2, 0) for s in (0.8, 1.5))
    for eps in (0.3, 1.0):
        g = gaussian_potential(grid, grid, a, b, eps)
        report = solve_sinkhorn(Problem(grid, grid, eps, a, b), tol=1e-6, g0=g).report
        assert report.passes == 1


def test_gaussian_potential_in_many_dimensions_ignores_only_isotropic_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an isotropic remainder the short cut for many dimensions is the full formula."""
    random = torch.Generator().manual_seed(0)
    monkeypatch.setattr(closed_form, "DIRECTIONS", 64)
    rows, columns = (torch.randn(40, 80, generator=random, dtype=torch.float64) for _ in range(2))
    w = torch.full((40,), 1 / 40, dtype=torch.float64)
    columns[:, :30] *= 5
    short = gaussian_potential(rows, columns, w, w, 5.0)
    a, b = ((x * w[:, None]).T @ x for x in (rows, columns))
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    values, vectors = torch.linalg.eigh(root @ b @ root)
    inner = (vectors / ((values.clamp(min=0) + 25 / 4).sqrt() + 2.5)) @ vectors.T
    half = columns @ root
    full = -0.5 * (half @ inner * half).sum(1)
    assert torch.allclose(short, full, rtol=1e-6)


@pytest.mark.parametrize("kind", [SurrogatePart, IntegerPart])
@pytest.mark.parametrize("keep", [8, 1000])
def test_stand_in_has_the_marginals_of_its_sweep(
    keep: int, kind: type[SurrogatePart], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the sweep's own eps one Sinkhorn step on the stand-in starts from the error that was measured."""
    monkeypatch.setattr(surrogate, "part_kind", lambda device: kind)
    problem = blobs(300, 400, 3, rel_eps=0.1)
    a, b = problem.weights()
    kernel = kernel_of(problem)
    gamma = kernel.log_b.clone()
    share = RowPartition(problem.n, problem.m, a.device)
    with Workers(a.device) as workers:
        swept = sweep(kernel.bound(gamma, problem.eps), gamma, a, share, workers, keep=keep)
        stand_in = Surrogate(swept, a, b, kernel.log_b, share, workers)
        error = (swept.columns - b).abs().sum().item()
        assert stand_in.solve(1.0, 1.001 * error).error == pytest.approx(error, rel=1e-5)
    assert swept.entries is not None
    assert len(swept.entries.i) <= 4 * keep * 300


def test_a_stand_in_that_adds_few_columns_at_a_time_finds_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = blobs(600, 400, 3, rel_eps=0.03)
    whole = solve_sinkhorn(problem)
    monkeypatch.setattr(surrogate_part, "COLUMNS_AT_ONCE", {"cpu": 1})
    assert torch.equal(solve_sinkhorn(problem).g, whole.g)


@pytest.mark.parametrize("kind", [SurrogatePart, IntegerPart])
def test_complete_stand_in_solves_the_problem(kind: type[SurrogatePart], monkeypatch: pytest.MonkeyPatch) -> None:
    """With every entry kept the stand-in is the problem itself, at its own eps and at a third of it."""
    monkeypatch.setattr(surrogate, "part_kind", lambda device: kind)
    problem = blobs(80, 90, 3, rel_eps=0.1, dtype=torch.float64)
    a, b = problem.weights()
    kernel = kernel_of(problem)
    gamma = kernel.log_b.clone()
    share = RowPartition(problem.n, problem.m, a.device)
    with Workers(a.device) as workers:
        swept = sweep(kernel.bound(gamma, problem.eps), gamma, a, share, workers, keep=90, entropies=True)
        stand_in = Surrogate(swept, a, b, kernel.log_b, share, workers)
        solutions = {sharpen: stand_in.solve(sharpen, 1e-9) for sharpen in (1.0, 3.0)}
    for sharpen, solution in solutions.items():
        cost = -(problem.x0 @ problem.x1.T)
        parts = (part.numpy() for part in (a, b, cost))
        plan = torch.from_numpy(
            ot.sinkhorn(*parts, problem.eps / sharpen, method="sinkhorn_log", stopThr=1e-10, numItermax=100_000)
        )
        entropy = torch.special.entr(plan).sum().item()
        assert solution.entropy == pytest.approx(entropy, rel=1e-5)
        g = kernel.g(solution.gamma, problem.eps / sharpen)
        report = solve_sinkhorn(Problem(problem.x0, problem.x1, problem.eps / sharpen), tol=1e-7, g0=g).report
        assert report.passes == 1


def test_complete_stand_in_foretells_the_log_sums_of_rows() -> None:
    """At a smaller eps too, and at any potential of the columns, with its rest and without."""
    problem = blobs(80, 90, 3, rel_eps=0.1, dtype=torch.float64)
    a, b = problem.weights()
    kernel, share = kernel_of(problem), RowPartition(80, 90, a.device)
    gamma = kernel.log_b.clone()
    for keep, close in ((90, 1e-8), (60, 0.05)):
        with Workers(a.device) as workers:
            swept = sweep(kernel.bound(gamma, problem.eps), gamma, a, share, workers, keep=keep)
            stand_in = Surrogate(swept, a, b, kernel.log_b, share, workers)
            moved = stand_in.solve(2.0, 1e-9).gamma + 0.1 * torch.arange(90) / 90
            foretold = stand_in.foretell(moved, swept.phi)
            found = sweep(kernel.bound(moved, problem.eps / 2), moved, a, share, workers).phi
        assert torch.allclose(foretold, found, atol=close)


def test_anderson_solves_a_linear_map_in_as_many_steps_as_it_has_dimensions() -> None:
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 4, generator=random, dtype=torch.float64) / 4
    shift = torch.randn(4, generator=random, dtype=torch.float64)
    anderson, x = Anderson(5), torch.zeros(4, dtype=torch.float64)
    for _ in range(6):
        x = anderson.mix(x, matrix @ x + shift)
    truth = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - matrix, shift)
    assert torch.allclose(x, truth, atol=1e-6)


BROAD = [(n, d, sharpness) for n, d in [(60, 3), (256, 8), (900, 2)] for sharpness in (0.95, 0.7, 0.3)]


@pytest.mark.parametrize(("n", "d", "sharpness"), [*BROAD, (800, 8, 0.6), (800, 8, 0.05)])
def test_a_sharpness_finds_its_eps(n: int, d: int, sharpness: float) -> None:
    """In at most twice the passes of a solve, whether or not the block is large enough to be thinned."""
    coupling = solve_for_sharpness(blobs(n, n, d, rel_eps=1.0), sharpness)
    plan = dense(coupling.problem, coupling.f, coupling.g).plan
    entropy = torch.special.entr(plan).sum().item()
    assert coupling.report.converged
    assert entropy / math.log(n) - 1 == pytest.approx(sharpness, abs=0.01)
    assert coupling.report.passes <= 2 * solve_sinkhorn(coupling.problem).report.passes


def test_sharpness_with_weights() -> None:
    problem = blobs(300, 200, 4, rel_eps=1.0)
    problem = Problem(problem.x0, problem.x1, 1.0, random_weights(300, 50, 1), random_weights(200, 40, 2))
    coupling = solve_for_sharpness(problem, 0.2)
    assert coupling.report.converged
    assert coupling.report.sharpness == pytest.approx(0.2, abs=0.01)
    assert coupling.g.shape == (200,)


def test_a_sharpness_below_that_of_any_coupling_is_refused() -> None:
    """Of 40 rows and 10 every plan has the 40's entropy at least; E = .23 is that of one partner a row."""
    problem = blobs(40, 10, 2, rel_eps=1.0)
    with pytest.raises(InputError, match=r"sharpness=0.2: no coupling .* of 40 and 10 rows .* below 0.231"):
        solve_for_sharpness(problem, 0.2)
    assert solve_for_sharpness(problem, 0.3).report.sharpness == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, math.nan])
def test_impossible_entropies_are_refused(sharpness: float) -> None:
    with pytest.raises(InputError, match="sharpness="):
        solve_for_sharpness(blobs(10, 10, 2, rel_eps=1.0), sharpness)


@pytest.mark.parametrize("case", ["fixed", "relaxed"])
@pytest.mark.parametrize("every", [8, 1000])
def test_errors_that_are_looked_at_seldom_lead_to_the_same_bits(
    case: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where iterations go on while nobody waits for an error."""

    def answer() -> list[torch.Tensor]:
        problem = replace(blobs(600, 400, 3, 1.0), cost="sqeuclidean").at(0.05)
        coupling = solve_sinkhorn(problem) if case == "fixed" else solve_relaxed(problem, Relax(0.5, 0.5), tol=1e-3)
        return [coupling.f, coupling.g]

    each = answer()
    monkeypatch.setattr(surrogate, "EVERY", {"cpu": every})
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(each, answer(), strict=True))
