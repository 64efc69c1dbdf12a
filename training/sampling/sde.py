"""Euler-Maruyama for dx = b(t, x) dt + g(t) dW from t = 0 to 1, and the SDEs that a trained flow defines.

An SDE with drift v + g^2/2 grad log p_t has the same marginals as the flow of v, for any g.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flowpairs.training.objectives.probability_paths import Path
from flowpairs.training.sampling.ode import Solution, Velocity

Diffusion = Callable[[float], float]


@torch.no_grad()
def solve_sde(
    drift: Velocity,
    diffusion: Diffusion,
    x0: Float[Tensor, "b *shape"],
    steps: int,
    normals: Callable[[int], Float[Tensor, "b *shape"]],
) -> Solution:
    """Integrate in equal steps and keep every state.

    Args:
        drift: the drift b, a function of (t [b], x [b, *shape]).
        diffusion: the diffusion g, a function of t.
        x0: the states at t = 0.
        steps: the number of steps, each of length 1 / steps with one evaluation of the drift.
        normals: a function from the number of a step, 0, 1, ..., to its standard noise.
    """
    states = [x0]
    for step in range(steps):
        t, x = step / steps, states[-1]
        moved = x + drift(torch.full((len(x),), t, dtype=x.dtype, device=x.device), x) / steps
        states.append(moved + diffusion(t) * steps**-0.5 * normals(step))
    return Solution(torch.stack(states), steps)


def from_velocity(path: Path, v: Velocity) -> tuple[Velocity, Diffusion]:
    """Build drift and diffusion of the SDE with g^2 = 2 (1 - t), with the score computed from the velocity.

    This g cancels the pole of the score at t = 1 for sigma = 0, and the SDE ends without noise.

    Args:
        path: the path that the velocity was trained on; the source must be as `Path.score` requires.
        v: the marginal velocity.
    """

    def drift(t: Tensor, x: Tensor) -> Tensor:
        velocity = v(t, x)
        rest = (1 - t).view(-1, *(1,) * (x.ndim - 1))
        return velocity + rest * path.score(t, x, velocity)

    return drift, lambda t: (2 * (1 - t)) ** 0.5
