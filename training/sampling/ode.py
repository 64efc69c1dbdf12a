"""Solvers of dx/dt = v(t, x) from t = 0 to 1, which count their function evaluations (NFE).

A velocity is any function of (t [b], x [b, *shape]) -> [b, *shape].
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchdiffeq import odeint

from flowpairs.pipeline.base.errors import InputError, JobError

Velocity = Callable[[Tensor, Tensor], Tensor]
Stepper = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """The states at the requested times, and the number of function evaluations (`nfe`) that they took."""

    states: Float[Tensor, "times b *shape"]
    nfe: int

    @property
    def end(self) -> Float[Tensor, "b *shape"]:
        """The last state."""
        return self.states[-1]


def euler_step(
    v: Velocity, t: Float[Tensor, ""], h: Float[Tensor, ""], x: Float[Tensor, "b *shape"]
) -> Float[Tensor, "b *shape"]:
    """Take one Euler step of length h: order 1, one evaluation."""
    return x + h * _at(v, t, x)


def midpoint_step(
    v: Velocity, t: Float[Tensor, ""], h: Float[Tensor, ""], x: Float[Tensor, "b *shape"]
) -> Float[Tensor, "b *shape"]:
    """Take one midpoint step of length h: order 2, two evaluations."""
    return x + h * _at(v, t + h / 2, x + h / 2 * _at(v, t, x))


def heun_step(
    v: Velocity, t: Float[Tensor, ""], h: Float[Tensor, ""], x: Float[Tensor, "b *shape"]
) -> Float[Tensor, "b *shape"]:
    """Take one Heun step of length h: order 2, two evaluations."""
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
    """Draw samples of a flow by integrating dx/dt = v(t, x) from x0 at t = 0 to t = 1.

    Args:
        model: the velocity v, called as `model(t, x)`, or as `model(t, x, label)` if a label is given, with t [b] and
            x [b, *shape]; it returns [b, *shape]. No gradients are kept. If the model distinguishes training and
            evaluation mode, set evaluation mode first.
        x0: the points to start from [b, *shape]: noise, or data of the source, like the x0 of the pairs.
        solver: dopri5 (Dormand-Prince 5(4)), which chooses its steps; or euler, midpoint or heun, with equal steps.
        steps: the number of equal steps, of 1 (euler) or 2 (midpoint, heun) evaluations each; None for dopri5.
        label: the labels of the samples [b], for a conditional model.
        rtol: the relative tolerance of dopri5.
        atol: the absolute tolerance of dopri5, in units of x.

    Returns:
        The samples [b, *shape]; `integrate` in this module also returns the number of evaluations.

    Raises:
        InputError: a ValueError: the solver does not exist, or it does not take the given steps.
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
    """Draw samples as `sample` does, and count function evaluations: `.end` holds the samples, `.nfe` the number."""
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
        x0: the states at t = 0.
        solver: the method: euler, midpoint or heun.
        steps: the number of steps, each of length 1 / steps.
        every: whether to return the states at 0, 1 / steps, ..., 1 rather than the last one alone.
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
    """Integrate adaptively with Dormand-Prince 5(4), with one step size for the whole batch.

    Args:
        v: the velocity.
        x0: the states at t = 0, or at the first of `times`.
        rtol: the relative tolerance.
        atol: the absolute tolerance, in units of x.
        times: the increasing times at which to return the states; None: (0, 1).

    Raises:
        JobError: the velocity grows so fast that no step keeps the tolerance, or is not finite.
    """
    count = _Counted(v)
    if times is None:
        times = torch.tensor([0.0, 1.0], dtype=x0.dtype, device=x0.device)
    try:
        states = odeint(lambda t, x: _at(count, t, x), x0, times, rtol=rtol, atol=atol, method="dopri5")
    except AssertionError as error:
        raise JobError(
            f"dopri5: no step is small enough after {count.nfe} evaluations ({error}): the velocity grows without "
            "bound or is not finite; train longer or with a smaller learning rate, or raise rtol and atol"
        ) from error
    return Solution(states, count.nfe)


def _at(v: Velocity, t: Tensor, x: Tensor) -> Tensor:
    """Evaluate v with one time for all samples; torchdiffeq keeps time in float64, the model takes it in x's dtype."""
    return v(t.to(x.dtype).expand(len(x)), x)


class _Counted:
    """A velocity that counts its calls."""

    def __init__(self, v: Velocity) -> None:
        self.v = v
        self.nfe = 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self.nfe += 1
        return self.v(t, x)
