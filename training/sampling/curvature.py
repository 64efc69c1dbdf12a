"""The curvature of a flow: the distance of its trajectories from straight lines at constant speed."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowpairs.training.sampling.ode import Velocity, solve_fixed


def curvature_by_time(v: Velocity, x0: Float[Tensor, "b *shape"], steps: int) -> Float64[Tensor, " times"]:
    """Sum |v(t, x_t) - (x_1 - x_0)|^2 over the batch at t = 0, 1/steps, ..., 1.

    x_t follows the flow's own trajectory (Heun, `steps` equal steps) and x_1 is its end, so a flow whose trajectories
    are straight lines at constant speed has curvature 0, whatever pairs it was trained on. The squared norm is summed
    over the coordinates.
    """
    return straightness_by_time(v, x0, steps)[0]


def straightness_by_time(
    v: Velocity, x0: Float[Tensor, "b *shape"], steps: int
) -> tuple[Float64[Tensor, " times"], Float64[Tensor, " times"]]:
    """Sum `curvature_by_time` and, with it, |x_t - (1 - t) x_0 - t x_1|^2: how far a trajectory is from its chord."""
    states = solve_fixed(v, x0, "heun", steps).states
    chord = states[-1] - states[0]
    bends, distances = [], []
    with torch.no_grad():
        for t, x in zip(torch.linspace(0, 1, steps + 1, dtype=x0.dtype, device=x0.device), states, strict=True):
            bends.append((v(t.expand(len(x)), x) - chord).double().square().sum())
            distances.append((x - states[0] - t * chord).double().square().sum())
    return torch.stack(bends), torch.stack(distances)


def integrate_unit_interval(values: Float64[Tensor, " times"]) -> float:
    """Integrate values at equally spaced times from 0 to 1 by the trapezoid rule."""
    return float(torch.trapezoid(values, dx=1 / (len(values) - 1)))
