"""The solvers against closed-form solutions, and their orders of convergence."""

import math

import pytest
import torch
from torch import Tensor

from flowpairs.training.sampling.ode import integrate, sample, solve_dopri5, solve_fixed


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


def growth(t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
    """dx/dt = x, or (label + 1) x."""
    return x if label is None else (label + 1)[:, None] * x


def test_samples_are_the_end_of_the_flow_for_every_solver() -> None:
    torch.testing.assert_close(sample(growth, START), math.e * START, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sample(growth, START, rtol=1e-9, atol=1e-9), math.e * START, rtol=1e-8, atol=1e-8)
    for solver, factor in (("euler", 1 + 1 / 6), ("midpoint", 1 + 1 / 6 + 1 / 72), ("heun", 1 + 1 / 6 + 1 / 72)):
        torch.testing.assert_close(sample(growth, START, solver, 6), factor**6 * START)
        assert integrate(growth, START, solver, 6).nfe == (6 if solver == "euler" else 12)
        assert integrate(growth, START, solver, 6).states.shape == (1, 3, 1)
    assert integrate(growth, START).nfe > 6


def test_samples_have_the_labels_that_are_given() -> None:
    label = torch.tensor([0, 1, 2])
    truth = torch.exp(label + 1.0)[:, None] * START
    torch.testing.assert_close(sample(growth, START, label=label, rtol=1e-9, atol=1e-9), truth, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(sample(growth, START, "heun", 400, label=label), truth, rtol=1e-4, atol=1e-4)


def test_samples_carry_no_gradient() -> None:
    weight = torch.ones(1, requires_grad=True)
    for options in ({}, {"solver": "euler", "steps": 3}):
        assert not sample(lambda t, x: weight.double() * x, START, **options).requires_grad


@pytest.mark.parametrize(
    ("solver", "steps", "sentence"),
    [
        ("rk4", 4, "solver='rk4': no such solver; give dopri5, euler, midpoint, heun"),
        ("dopri5", 4, "steps=4: dopri5 chooses its own; leave them out"),
        ("euler", None, "steps=None: solver='euler' takes equal steps; give how many"),
        ("heun", 0, "steps=0: solver='heun' takes equal steps"),
    ],
)
def test_steps_that_a_solver_does_not_take_are_refused(solver: str, steps: int | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        sample(growth, START, solver, steps)
