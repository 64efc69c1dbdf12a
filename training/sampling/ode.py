"""Solvers of dx/dt = v(t, x) from t = 0 to 1, each counting its function evaluations (NFE).

A velocity is any function of (t [b], x [b, *shape]) -> [b, *shape].
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchdiffeq import odeint

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


@torch.no_grad()
def solve_fixed(v: Velocity, x0: Float[Tensor, "b *shape"], solver: str, steps: int) -> Solution:
    """Integrate in equal steps and keep every state.

    Args:
        v: the velocity.
        x0: states at t = 0.
        solver: euler, midpoint or heun.
        steps: of length 1 / steps; the states returned are at 0, 1 / steps, ..., 1.
    """
    count = _Counted(v)
    times = torch.linspace(0, 1, steps + 1, dtype=x0.dtype, device=x0.device)
    states = [x0]
    for t, following in itertools.pairwise(times):
        states.append(STEPPERS[solver](count, t, following - t, states[-1]))
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
