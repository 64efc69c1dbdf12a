"""The Frechet distance between two sets of features, and the principal components that can serve as features."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowpairs.pipeline.blocks.features import principal_directions


@dataclass(frozen=True)
class Principal:
    """The projection of flattened data onto their principal directions."""

    mean: Float64[Tensor, " d"]
    directions: Float64[Tensor, "d k"]  # orthonormal columns, largest variance first

    @classmethod
    def fit(cls, data: Float[Tensor, "n *shape"], k: int) -> "Principal":
        """Compute the k directions of largest variance, or as many as there are coordinates."""
        flat = data.flatten(1).double()
        mean = flat.mean(0)
        return cls(mean, torch.from_numpy(principal_directions((flat - mean).numpy(), k)))

    def __call__(self, data: Float[Tensor, "n *shape"]) -> Float64[Tensor, "n k"]:
        """Project data onto the directions."""
        return (data.flatten(1).double() - self.mean) @ self.directions


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features."""

    mean: Float64[Tensor, " k"]
    covariance: Float64[Tensor, "k k"]

    @classmethod
    def fit(cls, features: Float64[Tensor, "n k"]) -> "Gaussian":
        """Compute the mean and the covariance of the rows, with divisor n - 1."""
        return cls(features.mean(0), torch.atleast_2d(torch.cov(features.T)))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Compute the squared 2-Wasserstein distance of two Gaussians: |mu_a - mu_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2).

    Source: Dowson and Landau (1982), eq. 4. Computed in float64 with symmetric eigendecompositions, which stay real
    if a covariance is singular.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    trace = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float((a.mean - b.mean).square().sum() + trace)
