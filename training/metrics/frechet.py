"""The Frechet distance of a flow's samples to the data, and the principal components that it may be taken on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowpairs.pipeline.blocks.features import principal_directions


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
        return cls(mean, torch.from_numpy(principal_directions((flat - mean).numpy(), k)))

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
