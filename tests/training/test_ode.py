"""The solvers against closed-form solutions, and their orders of convergence."""

import math

import pytest
import torch
from torch import Tensor

from flowpairs.training.sampling.ode import solve_dopri5, solve_fixed


def driven_decay(t: Tensor, x: Tensor) -> Tensor:
    """dx/dt = cos(t) - x."""
    return torch.cos(t)[:, None] - x


def driven_decay_at(t: float, x0: Tensor) -> Tensor:
    """Its solution, (cos t + sin t)/2 + (x0 - 1/2) exp(-t)."""
    return (math.cos(t) + math.sin(t)) / 2 + (x0 - 0.5) * math.exp(-t)


START = torch.tensor([[-1.0], [0.3], [2.0]], dtype=torch.float64)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_order_of_convergence(solver: str, order: int) -> None:
    truth = driven_decay_at(1.0, START)
    errors = [(solve_fixed(driven_decay, START, solver, n).end - truth).abs().max() for n in (32, 64)]
    assert torch.log2(errors[0] / errors[1]).item() == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 8), ("midpoint", 16), ("heun", 16)])
def test_fixed_solvers_count_what_they_call(solver: str, evaluations: int) -> None:
    calls = []

    def recorded(t: Tensor, x: Tensor) -> Tensor:
        calls.append(t)
        return driven_decay(t, x)

    solution = solve_fixed(recorded, START, solver, steps=8)
    assert solution.nfe == len(calls) == evaluations
    assert solution.states.shape == (9, 3, 1)
    assert torch.equal(solution.states[0], START)


def test_dopri5_follows_the_closed_form_and_counts_its_calls() -> None:
    calls = []

    def recorded(t: Tensor, x: Tensor) -> Tensor:
        calls.append(t)
        return driven_decay(t, x)

    times = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    solution = solve_dopri5(recorded, START, rtol=1e-9, atol=1e-9, times=times)
    truth = torch.stack([driven_decay_at(t, START) for t in times.tolist()])
    torch.testing.assert_close(solution.states, truth, rtol=0, atol=1e-8)
    assert solution.nfe == len(calls)


def test_tighter_tolerance_costs_more_and_errs_less() -> None:
    truth = driven_decay_at(1.0, START)
    loose, tight = (solve_dopri5(driven_decay, START, tol, tol) for tol in (1e-3, 1e-10))
    assert tight.nfe > loose.nfe
    assert (tight.end - truth).abs().max() < (loose.end - truth).abs().max()
