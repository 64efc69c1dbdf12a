"""Euler-Maruyama for dx = b(t, x) dt + g(t) dW from t = 0 to 1, and the SDEs that a trained flow defines.

An SDE of drift v + g^2/2 grad log p_t passes through the marginals of the flow of v, whatever g is.
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
        drift: b, a function of (t [b], x [b, *shape]).
        diffusion: g, a function of t.
        x0: states at t = 0.
        steps: of length 1 / steps; the drift is evaluated once in each.
        normals: standard noise of step 0, 1, ...
    """
    states = [x0]
    for step in range(steps):
        t, x = step / steps, states[-1]
        moved = x + drift(torch.full((len(x),), t, dtype=x.dtype, device=x.device), x) / steps
        states.append(moved + diffusion(t) * steps**-0.5 * normals(step))
    return Solution(torch.stack(states), steps)


def from_velocity(path: Path, v: Velocity) -> tuple[Velocity, Diffusion]:
    """Drift and diffusion of the SDE with g^2 = 2 (1 - t), its score out of the velocity.

    That g makes up for the pole which the score has at t = 1 where sigma = 0, and ends without noise.

    Args:
        path: that the velocity was trained on, from a source as `Path.score` asks for.
        v: the marginal velocity.
    """

    def drift(t: Tensor, x: Tensor) -> Tensor:
        velocity = v(t, x)
        rest = (1 - t).view(-1, *(1,) * (x.ndim - 1))
        return velocity + rest * path.score(t, x, velocity)

    return drift, lambda t: (2 * (1 - t)) ** 0.5
