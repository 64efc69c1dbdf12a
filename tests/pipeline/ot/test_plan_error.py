"""The estimate of a plan's error, against the plan that is solved to a thousandth of the tolerance in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flowpairs.pipeline.ot import Problem, independent, solve_exact, solve_sinkhorn
from flowpairs.pipeline.ot.coupling import EntropicCoupling

N = 300


def plan(coupling: EntropicCoupling) -> Tensor:
    """P by its definition, in float64."""
    problem = coupling.problem
    a, b = problem.weights()
    cost = -problem.x0.double() @ problem.x1.double().T
    return a[:, None] * b * ((coupling.f[:, None] + coupling.g - cost) / problem.eps).exp()


def gauss(normal: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    return normal(N, 8), normal(N, 8) * torch.linspace(0.5, 2, 8)


def in_the_plane(normal: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    return normal(N, 2), normal(N, 2) * torch.tensor([0.5, 2])


def clusters(normal: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    return normal(N, 8), normal(N, 8) * 0.1 + 3 * (torch.arange(N)[:, None] % 3)


def weakly_coupled(normal: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Two clusters with masses 147 and 153: what has to cross is far more than what is wrong in the marginal."""
    rows = torch.arange(N)[:, None]
    return normal(N, 2) * 0.1 + 3 * (rows < 147), normal(N, 2) * 0.1 + 3 * (rows < 153)


@pytest.mark.parametrize("make", [gauss, in_the_plane, clusters, weakly_coupled])
@pytest.mark.parametrize("rel_eps", [0.03, *(pytest.param(e, marks=pytest.mark.nightly) for e in (1.0, 0.1, 0.01))])
def test_it_is_right_within_a_factor_of_two_and_a_half(make: Callable, rel_eps: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x0, x1 = make(lambda *shape: torch.randn(*shape, generator=generator))
    exactly = Problem(x0.double(), x1.double(), 1.0).at(rel_eps)
    truth = plan(solve_sinkhorn(exactly, tol=1e-8))
    for tol in (1e-1, 1e-2, 1e-3):
        coupling = solve_sinkhorn(Problem(x0, x1, exactly.eps), tol=tol)
        error, report = (plan(coupling) - truth).abs().sum().item(), coupling.report
        assert error / 2.5 < report.plan_error < 2.5 * error
        assert report.plan_error >= max(report.source_error, report.target_error)


def test_it_is_at_most_two_where_nothing_converged() -> None:
    generator = torch.Generator().manual_seed(1)
    x0, x1 = in_the_plane(lambda *shape: torch.randn(*shape, generator=generator))
    report = solve_sinkhorn(Problem(x0, x1, 1.0).at(0.001), max_passes=1).report
    assert not report.converged
    assert 0.1 < report.plan_error <= 2


def test_of_plans_without_a_solve_it_is_their_marginals() -> None:
    generator = torch.Generator().manual_seed(1)
    problem = Problem(*gauss(lambda *shape: torch.randn(*shape, generator=generator)), 1.0)
    assert independent(problem).report.plan_error == 0
    assert solve_exact(problem).report.plan_error < 1e-9
