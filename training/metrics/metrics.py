"""How good a flow is: the Frechet distance of its samples to the data, and the curvature of its trajectories."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowpairs.training.sampling.ode import Velocity, solve_fixed


@dataclass(frozen=True)
class Principal:
    """Coordinates of flattened data on their principal directions."""

    mean: Float64[Tensor, " d"]
    directions: Float64[Tensor, "d k"]  # orthonormal columns, largest variance first

    @classmethod
    def fit(cls, data: Float[Tensor, "n *shape"], k: int) -> "Principal":
        """The k directions of largest variance, or as many as there are coordinates."""
        flat = data.flatten(1).double()
        mean = flat.mean(0)
        centred = flat - mean
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        return cls(mean, vectors.flip(1)[:, :k])

    def __call__(self, data: Float[Tensor, "n *shape"]) -> Float64[Tensor, "n k"]:
        """Project."""
        return (data.flatten(1).double() - self.mean) @ self.directions


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features."""

    mean: Float64[Tensor, " k"]
    covariance: Float64[Tensor, "k k"]

    @classmethod
    def fit(cls, features: Float64[Tensor, "n k"]) -> "Gaussian":
        """Moments of the rows, covariance with n - 1."""
        return cls(features.mean(0), torch.atleast_2d(torch.cov(features.T)))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared 2-Wasserstein distance of two Gaussians, |mu_a - mu_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2).

    Source: Dowson and Landau (1982), eq. 4. Computed in float64 with symmetric eigendecompositions, which stay real
    where a covariance is singular.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    trace = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float((a.mean - b.mean).square().sum() + trace)


def curvature_by_time(v: Velocity, x0: Float[Tensor, "b *shape"], steps: int) -> Float64[Tensor, " times"]:
    """Sum over the batch of |v(t, x_t) - (x_1 - x_0)|^2 at t = 0, 1/steps, ..., 1.

    x_t runs along the flow's own trajectory (Heun, `steps` equal steps) and x_1 is where that ends, so a flow whose
    trajectories are straight lines at constant speed has curvature 0 whatever pairs it was trained on. The squared norm
    is summed over the coordinates.
    """
    states = solve_fixed(v, x0, "heun", steps).states
    chord = states[-1] - states[0]
    out = []
    with torch.no_grad():
        for t, x in zip(torch.linspace(0, 1, steps + 1, dtype=x0.dtype, device=x0.device), states, strict=True):
            out.append((v(t.expand(len(x)), x) - chord).double().square().sum())
    return torch.stack(out)


def integrate_unit_interval(values: Float64[Tensor, " times"]) -> float:
    """The trapezoid rule on equally spaced times from 0 to 1."""
    return float(torch.trapezoid(values, dx=1 / (len(values) - 1)))
