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
    states = solve_fixed(v, x0, "heun", steps).states
    chord = states[-1] - states[0]
    out = []
    with torch.no_grad():
        for t, x in zip(torch.linspace(0, 1, steps + 1, dtype=x0.dtype, device=x0.device), states, strict=True):
            out.append((v(t.expand(len(x)), x) - chord).double().square().sum())
    return torch.stack(out)


def integrate_unit_interval(values: Float64[Tensor, " times"]) -> float:
    """Integrate values at equally spaced times from 0 to 1 by the trapezoid rule."""
    return float(torch.trapezoid(values, dx=1 / (len(values) - 1)))
