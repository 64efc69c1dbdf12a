"""Solvers of dx/dt = v(t, x) from t = 0 to 1, each counting its function evaluations (NFE).

A velocity is any function of (t [b], x [b, *shape]) -> [b, *shape].
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchdiffeq import odeint

from flowpairs.pipeline.base.errors import InputError

Velocity = Callable[[Tensor, Tensor], Tensor]
Stepper = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """States at the asked times, and what they cost."""

    states: Float[Tensor, "times b *shape"]
    nfe: int

    @property
    def end(self) -> Float[Tensor, "b *shape"]:
        """The last state."""
        return self.states[-1]


def euler_step(
    v: Velocity, t: Float[Tensor, ""], h: Float[Tensor, ""], x: Float[Tensor, "b *shape"]
) -> Float[Tensor, "b *shape"]:
    """Order 1, one evaluation."""
    return x + h * _at(v, t, x)


def midpoint_step(
    v: Velocity, t: Float[Tensor, ""], h: Float[Tensor, ""], x: Float[Tensor, "b *shape"]
) -> Float[Tensor, "b *shape"]:
    """Order 2, two evaluations."""
    return x + h * _at(v, t + h / 2, x + h / 2 * _at(v, t, x))


def heun_step(
    v: Velocity, t: Float[Tensor, ""], h: Float[Tensor, ""], x: Float[Tensor, "b *shape"]
) -> Float[Tensor, "b *shape"]:
    """Order 2, two evaluations."""
    slope = _at(v, t, x)
    return x + h / 2 * (slope + _at(v, t + h, x + h * slope))


STEPPERS: dict[str, Stepper] = {"euler": euler_step, "midpoint": midpoint_step, "heun": heun_step}


def sample(
    model: Callable[..., Tensor],
    x0: Float[Tensor, "b *shape"],
    solver: str = "dopri5",
    steps: int | None = None,
    *,
    label: Int64[Tensor, " b"] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Float[Tensor, "b *shape"]:
    """Samples of a flow: where dx/dt = v(t, x) leads from x0 at t = 0 until t = 1; `integrate` counts evaluations too.

    Args:
        model: the velocity v, called as `model(t, x)`, or as `model(t, x, label)` where a label is given: t [b], x and
            the answer [b, *shape]. No gradients are kept; put it into evaluation mode first where that matters.
        x0: where to start from, as the x0 of the pairs.
        solver: dopri5, which chooses its steps; or euler, midpoint or heun in equal ones.
        steps: how many equal ones, of 1 (euler) or 2 evaluations each; None for dopri5.
        label: of the samples, for a conditional model.
        rtol, atol: tolerances of dopri5, relative and in units of x.

    Raises:
        InputError: a ValueError; no such solver, or steps that it does not take.
    """
    return integrate(model, x0, solver, steps, label=label, rtol=rtol, atol=atol).end


def integrate(
    model: Callable[..., Tensor],
    x0: Float[Tensor, "b *shape"],
    solver: str = "dopri5",
    steps: int | None = None,
    *,
    label: Int64[Tensor, " b"] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Solution:
    """As `sample`, with the number of function evaluations: `.end` are the samples, `.nfe` is the number."""
    if solver != "dopri5" and solver not in STEPPERS:
        raise InputError(f"solver={solver!r}: no such solver; give dopri5, {', '.join(STEPPERS)}")
    if solver == "dopri5" and steps is not None:
        raise InputError(f"steps={steps!r}: dopri5 chooses its own; leave them out, or give solver='euler'")
    if solver != "dopri5" and (steps is None or steps < 1):
        raise InputError(f"steps={steps!r}: solver={solver!r} takes equal steps; give how many, as in steps=16")

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return model(t, x) if label is None else model(t, x, label)

    if steps is None:
        return solve_dopri5(velocity, x0, rtol, atol)
    return solve_fixed(velocity, x0, solver, steps, every=False)


@torch.no_grad()
def solve_fixed(v: Velocity, x0: Float[Tensor, "b *shape"], solver: str, steps: int, *, every: bool = True) -> Solution:
    """Integrate in equal steps.

    Args:
        v: the velocity.
        x0: states at t = 0.
        solver: euler, midpoint or heun.
        steps: of length 1 / steps.
        every: return the states at 0, 1 / steps, ..., 1 rather than the last one alone.
    """
    count, states = _Counted(v), [x0]
    times = torch.linspace(0, 1, steps + 1, dtype=x0.dtype, device=x0.device)
    for t, following in itertools.pairwise(times):
        state = STEPPERS[solver](count, t, following - t, states[-1])
        if not every:
            states.clear()
        states.append(state)
    return Solution(torch.stack(states), count.nfe)


@torch.no_grad()
def solve_dopri5(
    v: Velocity,
    x0: Float[Tensor, "b *shape"],
    rtol: float = 1e-5,
    atol: float = 1e-5,
    times: Float[Tensor, " times"] | None = None,
) -> Solution:
    """Integrate adaptively with Dormand-Prince 5(4), one step size for the whole batch.

    Args:
        v: the velocity.
        x0: states at t = 0, or at the first of `times`.
        rtol: relative tolerance.
        atol: absolute tolerance, in the units of x.
        times: where to return the states, increasing, x0 being that at the first; (0, 1) by default.
    """
    count = _Counted(v)
    if times is None:
        times = torch.tensor([0.0, 1.0], dtype=x0.dtype, device=x0.device)
    states = odeint(lambda t, x: _at(count, t, x), x0, times, rtol=rtol, atol=atol, method="dopri5")
    return Solution(states, count.nfe)


def _at(v: Velocity, t: Tensor, x: Tensor) -> Tensor:
    """v with the same time for every sample; torchdiffeq keeps time in float64, the model takes it in x's type."""
    return v(t.to(x.dtype).expand(len(x)), x)


class _Counted:
    """A velocity that counts its calls."""

    def __init__(self, v: Velocity) -> None:
        self.v = v
        self.nfe = 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self.nfe += 1
        return self.v(t, x)
