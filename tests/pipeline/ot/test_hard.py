"""Inputs on which Sinkhorn solvers stall or lose their digits: solved in few passes, and reported as they are."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem, Targets, solve_exact, solve_for_sharpness, solve_semidiscrete, solve_sinkhorn
from flowpairs.pipeline.ot.coupling import EntropicCoupling
from flowpairs.pipeline.ot.semidiscrete.assign import Assignment

N = 256


def hard() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Name, source, target and target weights."""
    normal = np.random.default_rng(10).standard_normal
    x, y, one = normal((N, 8)), normal((N, 8)), normal((N, 8))
    one[17] *= 50
    yield "a long row", x, one, None
    yield "a long source row", one, y, None
    far = y.copy()
    far[17] *= 1e6
    yield "an outlier", x, far, None
    yield "heavy tails", normal((N, 64)), normal((N, 64)) / np.random.default_rng(1).random((N, 1)), None
    yield "a line", np.sort(x[:, :1], 0), np.sort(np.exp(y[:, :1]), 0), None
    atom = np.full(N, 1e-9 / (N - 1))
    atom[5] = 1 - 1e-9
    yield "an atom", x, y, atom
    weights = 10 ** np.random.default_rng(2).uniform(-12, 0, N)
    yield "weights over twelve decades", x, 1.5 * y, weights / weights.sum()
    apart = np.array([[40.0, 0.0]])
    left, right = np.repeat([0, 1], [129, N - 129])[:, None] * apart, np.repeat([0, 1], [127, N - 127])[:, None] * apart
    yield "two clusters", normal((N, 2)) + left, normal((N, 2)) + right, None
    equal = np.full((N, 8), 0.5)
    equal[3] = 0.7
    yield "an outlier among equal rows", x, equal, None
    yield "equal sets", x, x.copy(), None


def problem_of(x0: np.ndarray, x1: np.ndarray, b: np.ndarray | None, rel_eps: float) -> Problem:
    points = torch.from_numpy(x0).float(), torch.from_numpy(x1).float()
    return Problem(*points, 1.0, None, None if b is None else torch.from_numpy(b)).at(rel_eps)


def plan_of(coupling: EntropicCoupling) -> tuple[torch.Tensor, torch.Tensor]:
    """The plan of the returned potentials in float64, and its cost matrix."""
    problem = coupling.problem
    a, b = problem.weights()
    x0, x1 = problem.x0.double(), problem.x1.double()
    return a[:, None] * b * ((coupling.f[:, None] + coupling.g + x0 @ x1.T) / problem.eps).exp(), torch.cdist(
        x0, x1, compute_mode="donot_use_mm_for_euclid_dist"
    ).square()


@pytest.mark.parametrize("rel_eps", [0.1, 0.01, 0.001])
@pytest.mark.parametrize(("x0", "x1", "b"), [case[1:] for case in hard()], ids=[case[0] for case in hard()])
def test_converges_in_few_passes(x0: np.ndarray, x1: np.ndarray, b: np.ndarray | None, rel_eps: float) -> None:
    coupling = solve_sinkhorn(problem_of(x0, x1, b, rel_eps))
    report = coupling.report
    assert report.converged
    assert report.passes <= 12
    plan, cost = plan_of(coupling)
    a, target = coupling.problem.weights()
    assert (plan.sum(0) - target).abs().sum() < 1.2e-3
    assert report.target_error == pytest.approx((plan.sum(0) - target).abs().sum().item(), rel=1e-2, abs=1e-7)
    assert report.source_error == pytest.approx((plan.sum(1) - a).abs().sum().item(), rel=1e-2, abs=1e-7)
    assert report.cost_coupled == pytest.approx((plan * cost).sum().item(), rel=1e-3, abs=1e-9)
    nats = torch.special.entr(plan).sum()
    for number, side in ((report.partners, a), (report.partners_of_target, target)):
        assert number == pytest.approx((nats - torch.special.entr(side).sum()).exp().item(), rel=1e-4)


def test_outliers_that_are_no_rows_nearest_cost_few_passes() -> None:
    """Their entries are kept by no row, and all that is not kept is next to nothing."""
    random = torch.Generator().manual_seed(0)
    x1 = torch.randn(2048, 64, generator=random) / (torch.rand(2048, 1, generator=random) + 0.01)
    found = solve_sinkhorn(Problem(torch.randn(2048, 64, generator=random), x1, 1.0).at(0.01))
    assert found.report.converged
    assert found.report.passes <= 6


@pytest.mark.parametrize(("scale", "offset"), [(1e-8, 0), (1e8, 0), (1.0, 1e5), (1e5, 0)])
def test_scales_and_offsets_do_not_matter(scale: float, offset: float) -> None:
    normal = np.random.default_rng(3).standard_normal
    clusters = np.random.default_rng(4).integers(0, 4, (2, N)) if scale == 1e5 else np.zeros((2, N), int)
    x0, x1 = ((normal((N, 3)) + 1e5 / scale * normal((4, 3))[own] * (scale == 1e5)) for own in clusters)
    problem = problem_of(scale * x0 + offset, scale * x1 - offset, None, 0.01)
    coupling = solve_sinkhorn(problem)
    plan, cost = plan_of(coupling)
    assert coupling.report.converged
    assert coupling.report.cost_coupled == pytest.approx((plan * cost).sum().item(), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e7])
def test_the_exact_plan_does_not_depend_on_the_unit(scale: float) -> None:
    points = torch.randn(2, 60, 4, generator=torch.Generator().manual_seed(0))
    truth = solve_exact(Problem(*points.double(), 1.0)).report.cost_coupled
    assert solve_exact(Problem(*(points * scale), 1.0)).report.cost_coupled / scale**2 == pytest.approx(truth, rel=1e-5)


def test_a_sharpness_below_what_equal_rows_allow_is_refused() -> None:
    x1 = torch.full((N, 8), -0.5)
    x1[:50], x1[200:] = 0.5, 0.0
    x0 = torch.randn(N, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"sharpness=0\.7: no coupling .* is below 0\.8"):
        solve_for_sharpness(Problem(x0, x1, 1.0), 0.7)
    assert solve_for_sharpness(Problem(x0, x1, 1.0), 0.95).report.sharpness == pytest.approx(0.95, abs=0.01)


class Gaussian:
    """Points of N(0, I_3) by number."""

    dim = 3

    def points(self, first: int, count: int) -> torch.Tensor:
        rows = np.random.Philox(key=1, counter=[first, 0, 0, 0]).random_raw(4 * count).reshape(count, 4)
        uniform = torch.from_numpy((rows >> np.uint64(11)) * 2.0**-53).clamp(1e-12, 1 - 1e-12)
        return torch.special.ndtri(uniform[:, :3]).float()


def test_a_hard_semidiscrete_potential_gives_unequal_weights() -> None:
    """Assigned by the potential that is returned: chi-square of fresh points as certified."""
    generator = torch.Generator().manual_seed(0)
    y, b = torch.randn(60, 3, generator=generator), torch.logspace(-2, 0, 60, dtype=torch.float64)
    b /= b.sum()
    source = Gaussian()
    found = solve_semidiscrete(Targets(y, b), source, 0.0)
    assert found.report.converged
    points = source.points(2**30, 200_000)
    partners = Assignment(y, found.g, 0.0).partners(points.double(), torch.zeros(len(points), dtype=torch.float64))
    mass = partners.bincount(minlength=60) / len(points)
    assert ((mass - b).square() / b).sum() < 0.06
