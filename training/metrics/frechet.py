"""The Frechet distance between two sets of features, and the principal components that can serve as features."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from flowpairs.pipeline.base.errors import JobError


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
        _, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean))
        directions = vectors.flip(1)[:, :k]
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))  # positive, so that signs are settled
        return cls(mean, directions * largest.sign())

    def __call__(self, data: Float[Tensor, "n *shape"]) -> Float64[Tensor, "n k"]:
        """Project data onto the directions."""
        return (data.flatten(1).double() - self.mean) @ self.directions


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features.

    Attributes:
        mean: the mean.
        covariance: the covariance.
        rows: the centred features over sqrt(n - 1), of which the covariance is rows^T rows, if there are no more of
            them than features. They have digits that the covariance has lost.
    """

    mean: Float64[Tensor, " k"]
    covariance: Float64[Tensor, "k k"]
    rows: Float64[Tensor, "n k"] | None = None

    @classmethod
    def fit(cls, features: Float[Tensor, "n k"]) -> "Gaussian":
        """Compute the mean and the covariance of the rows, with divisor n - 1; one row has no covariance."""
        mean = features.double().mean(0)
        centred = (features.double() - mean) / max(1, len(features) - 1) ** 0.5
        return cls(mean, centred.T @ centred, centred if len(centred) <= len(mean) else None)

    def factor(self) -> Float64[Tensor, "r k"]:
        """Compute a matrix F with F^T F the covariance.

        Variances below the rounding error of the largest are taken as zero: their roots would be 1e-8 of noise each.
        """
        if self.rows is not None:
            return self.rows
        values, vectors = torch.linalg.eigh(self.covariance)
        above = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        return (vectors[:, above] * values[above].sqrt()).T


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Compute the squared 2-Wasserstein distance of two Gaussians: |mu_a - mu_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2).

    Source: Dowson and Landau (1982), eq. 4. With factors A = F^T F and B = G^T G, the trace is the smallest squared
    norm of F - Q G over all orthogonal Q (Bhatia, Jain and Lim, 2019), which is reached at Q = U V^T of the
    singular value decomposition F G^T = U S V^T. Computed as such a norm, in float64, it is never negative, and right
    where covariances are singular: no difference of large traces and no root of a rounding error is taken.

    Raises:
        JobError: features that are not finite.
    """
    if not all(bool(torch.isfinite(part).all()) for part in (a.mean, a.covariance, b.mean, b.covariance)):
        raise JobError(
            "Frechet distance: features that are not finite or too large for float64, as of a flow that runs away; "
            "train longer, or with a smaller learning rate"
        )
    f, g = a.factor(), b.factor()
    height = max(len(f), len(g))
    f, g = (functional.pad(x, (0, 0, 0, height - len(x))) for x in (f, g))
    u, _, vt = torch.linalg.svd(f @ g.T)
    return float((a.mean - b.mean).square().sum() + (f - u @ (vt @ g)).square().sum())
