"""The velocity field that pairs determine, estimated by regression without a network.

A network regresses the velocity u = x1 - x0 on x_t = (1 - t) x0 + t x1, and the best that any can answer is
v(t, x) = E[u | x_t = x]. Every pair gives one x_t at any time t, so v is estimated at each of eight times from the same
pairs: an affine map by least squares, plus ridge regression with a Gaussian kernel of what the map leaves. Nearest
neighbours and weighted means do not do: in many dimensions the nearest of thousands of points is far away, and what
they flatten most is the affine part. The last time is 7/8: at t = 1, x_t is the datum itself, and a regression would
need many pairs of each.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Float32
from torch import Tensor

STEPS = 8  # times of the estimate: 0, 1/8, ..., 7/8
TUNED = 1_024  # pairs that bandwidth and ridge are tried on, at most half of those there are; as many others judge
BANDWIDTHS = 0.5, 1.0, 2.0  # of the kernel, squared, in units of the median squared distance of two points
RIDGES = 0.03, 0.1, 0.3, 1.0, 3.0, 10.0  # variance of the noise over that of the field, for any number of pairs
LEAST_NORM = 1e-4  # ridge of the affine map, in units of the mean variance of a coordinate


class KernelRidge:
    """A regression of y on x: affine least squares, plus kernel ridge regression of the residuals.

    The second part at z is sum_i exp(-|z - x_i|^2 / h) w_i with w = (K + r I)^-1 times the residuals (Rasmussen and
    Williams 2006, eq. 2.25, where r is the variance of the noise in units of the field's, whatever the number of
    points). h and r are those of a grid that fit best points that they were not fitted on, or there is no second part.

    Args:
        x: the points.
        y: the values.
        like: another regression, whose h and r are taken.
    """

    def __init__(self, x: Float32[Tensor, "n k"], y: Float32[Tensor, "n k"], like: "KernelRidge | None" = None) -> None:
        self.mean, self.offset = x.mean(0), y.mean(0)
        centred = (x - self.mean).double()
        moments = centred.T @ centred
        moments.diagonal().add_(LEAST_NORM * moments.diagonal().mean() + torch.finfo(torch.float32).tiny)
        self.slope = torch.linalg.solve(moments, centred.T @ (y - self.offset).double()).float()
        self.x, left = x, y - self._affine(x)
        self.h: float
        self.ridge: float | None
        self.h, self.ridge = _tuned(x, left) if like is None else (like.h, like.ridge)
        self.w = torch.zeros_like(y)
        if self.ridge is not None:
            kernel = _kernel(x, x, self.h)
            kernel.diagonal().add_(self.ridge)
            self.w = torch.cholesky_solve(left, torch.linalg.cholesky(kernel))

    def __call__(self, z: Float32[Tensor, "b k"]) -> Float32[Tensor, "b k"]:
        """Evaluate the regression."""
        return self._affine(z) if self.ridge is None else self._affine(z) + _kernel(z, self.x, self.h) @ self.w

    def _affine(self, z: Tensor) -> Tensor:
        return (z - self.mean) @ self.slope + self.offset


def _kernel(a: Float32[Tensor, "a k"], b: Float32[Tensor, "b k"], h: float) -> Float32[Tensor, "a b"]:
    return torch.cdist(a, b).square_().div_(-h).exp_()


def _tuned(x: Float32[Tensor, "n k"], left: Float32[Tensor, "n k"]) -> tuple[float, float | None]:
    """Choose the bandwidth and the ridge; None for the ridge if no second part is better than none."""
    count = min(TUNED, len(x) // 2)
    fit, judge = slice(0, count), slice(count, 2 * count)
    distances = torch.cdist(x[fit], x[fit]).square()
    median = float(distances.median()) or 1.0
    best, least, ridge_of_best = median, float(left[judge].double().square().sum()), None
    for bandwidth in BANDWIDTHS:
        h = bandwidth * median
        values, vectors = torch.linalg.eigh((-distances / h).exp())
        along, across = vectors.T @ left[fit], _kernel(x[judge], x[fit], h) @ vectors
        for ridge in RIDGES:
            error = (across @ (along / (values.clamp(min=0) + ridge)[:, None]) - left[judge]).double().square().sum()
            if error < least:
                best, least, ridge_of_best = h, float(error), ridge
    return best, ridge_of_best


class VelocityEstimate:
    """An estimate of E[x1 - x0 | x_t] at the times 0, 1/8, ..., 7/8, as a velocity that the solvers take.

    Args:
        x0: the source points of the pairs.
        x1: the target points of the pairs.
        like: an estimate from other pairs of the same coupling, whose bandwidths and ridges are taken.
        when_fitted: called after each of the STEPS times.
    """

    def __init__(
        self,
        x0: Float32[Tensor, "n k"],
        x1: Float32[Tensor, "n k"],
        like: "VelocityEstimate | None" = None,
        when_fitted: Callable[[], None] = lambda: None,
    ) -> None:
        self._at = list[KernelRidge]()
        for number in range(STEPS):
            given = None if like is None else like._at[number]
            self._at.append(KernelRidge(torch.lerp(x0, x1, number / STEPS), x1 - x0, given))
            when_fitted()

    def __call__(self, t: Float[Tensor, " b"], x: Float32[Tensor, "b k"]) -> Float32[Tensor, "b k"]:
        """Evaluate the velocity at a multiple of 1/8 below 1, the same for all points."""
        return self._at[round(float(t[0]) * STEPS)](x)
