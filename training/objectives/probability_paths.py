"""Probability paths: what the model sees between a pair's two ends, and the velocity it should answer there.

All are Gaussian: p_t(x given x0, x1) = N(mean_t, std_t^2), reached from standard noise z by x_t = mean_t + std_t z,
whose time derivative mean_t' + std_t' z is the regression target (arXiv 2302.00482, table 1).
t runs from 0 (source, x0) to 1 (target, x1).
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from flowpairs.training.config import PathConfig

Time = Float[Tensor, " b"]
Points = Float[Tensor, "b *shape"]


class Path(ABC):
    """A conditional path and its time derivative.

    Args:
        sigma: spread of the path; each one says what of.
    """

    margin = 0.0  # times are kept so far from 0 and 1

    def __init__(self, sigma: float = 0.0) -> None:
        self.sigma = sigma

    @property
    def noisy(self) -> bool:
        """Whether x_t is more than a function of (t, x0, x1), so that `point` and `velocity` read z."""
        return self.sigma > 0

    def point(self, t: Time, x0: Points, x1: Points, z: Points | None = None) -> Points:
        """x_t at each pair's own time.

        Args:
            t: times [b].
            x0, x1: the pairs.
            z: standard noise; needed where the path is noisy.
        """
        t = per_sample(t, x1)
        mean = self.mean(t, x0, x1)
        return mean + self.std(t) * self._needed(z) if self.noisy else mean

    def velocity(self, t: Time, x0: Points, x1: Points, z: Points | None = None) -> Points:
        """d x_t / dt at each pair's own time and fixed z: the regression target."""
        t = per_sample(t, x1)
        rate = self.mean_rate(t, x0, x1)
        return rate + self.std_rate(t) * self._needed(z) if self.noisy else rate

    # Below, t has been given trailing dimensions of 1 to stand against x.

    @abstractmethod
    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """mean_t."""

    @abstractmethod
    def mean_rate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Its time derivative."""

    def std(self, t: Tensor) -> Tensor:
        """std_t; constant unless a path says otherwise."""
        return torch.full_like(t, self.sigma)

    def std_rate(self, t: Tensor) -> Tensor:
        """Its time derivative."""
        return torch.zeros_like(t)

    def score(self, t: Time, x: Points, v: Points) -> Points:
        """The score grad log p_t(x) of the marginal out of its velocity, by linear algebra on conditional means.

        It holds where x0 is N(0, I) and independent of x1, and, for sigma = 0, where x0 determines x1 by a semidiscrete
        coupling at eps = 0: there too x0 given x1 has the Gaussian's score.

        Args:
            t: times [b] in [0, 1).
            x: where.
            v: the marginal velocity there.

        Raises:
            NotImplementedError: the bridge, whose velocity does not determine its score.
        """
        raise NotImplementedError(f"{type(self).__name__}: its velocity does not determine its score")

    def _needed(self, z: Tensor | None) -> Tensor:
        assert z is not None, "a noisy path needs noise"
        return z


class Straight(Path):
    """N((1 - t) x0 + t x1, sigma^2), velocity x1 - x0.

    I-CFM on independent pairs, OT-CFM on optimal ones; rectified flow with sigma = 0.
    """

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """See `Path`."""
        return (1 - t) * x0 + t * x1

    def mean_rate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """See `Path`."""
        return x1 - x0

    def score(self, t: Time, x: Points, v: Points) -> Points:
        """See `Path`: (t v - x) / (1 - t + sigma^2)."""
        t = per_sample(t, x)
        return (t * v - x) / (1 - t + self.sigma**2)


class TargetOnly(Path):
    """N(t x1, (1 - (1 - sigma) t)^2), velocity x1 - (1 - sigma) z: flow matching after Lipman et al., eq. 20 to 23.

    The source is z, standard Gaussian and independent of x1; x0 is not used, hence neither is how it was coupled.
    """

    @property
    def noisy(self) -> bool:
        """Always: z is its source."""
        return True

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """See `Path`."""
        return t * x1

    def mean_rate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """See `Path`."""
        return x1

    def std(self, t: Tensor) -> Tensor:
        """See `Path`."""
        return 1 - (1 - self.sigma) * t

    def std_rate(self, t: Tensor) -> Tensor:
        """See `Path`."""
        return torch.full_like(t, self.sigma - 1)

    def score(self, t: Time, x: Points, v: Points) -> Points:
        """See `Path`: (t v - x) / (1 - (1 - sigma) t)."""
        t = per_sample(t, x)
        return (t * v - x) / self.std(t)


class Bridge(Path):
    """Brownian bridges of diffusion sigma: N((1 - t) x0 + t x1, sigma^2 t (1 - t)); SB-CFM and [SF]2M.

    Mixed over entropic pairs of absolute eps = 2 sigma^2 on squared distances, or sigma^2 on the dot product, they are
    the Schroedinger bridge between the two distributions. The velocity has a pole at either end, and its square no
    finite mean up to there, so times keep off.
    """

    margin = 1e-3

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """See `Path`."""
        return (1 - t) * x0 + t * x1

    def mean_rate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """See `Path`."""
        return x1 - x0

    def std(self, t: Tensor) -> Tensor:
        """See `Path`."""
        return self.sigma * (t * (1 - t)).sqrt()

    def std_rate(self, t: Tensor) -> Tensor:
        """See `Path`: with z = (x - mean_t) / std_t, (1 - 2 t) / (2 t (1 - t)) (x - mean_t)."""
        return self.sigma * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())


class Trigonometric(Path):
    """N(cos(pi t / 2) x0 + sin(pi t / 2) x1, sigma^2): VP-CFM, variance preserving on independent pairs."""

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """See `Path`."""
        angle = math.pi / 2 * t
        return angle.cos() * x0 + angle.sin() * x1

    def mean_rate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """See `Path`."""
        angle = math.pi / 2 * t
        return math.pi / 2 * (angle.cos() * x1 - angle.sin() * x0)

    def score(self, t: Time, x: Points, v: Points) -> Points:
        """See `Path`: (2/pi tan(pi t / 2) v - x) / (1 + sigma^2)."""
        angle = math.pi / 2 * per_sample(t, x)
        return (2 / math.pi * angle.tan() * v - x) / (1 + self.sigma**2)


KINDS: dict[str, type[Path]] = {"cfm": Straight, "fm": TargetOnly, "sb": Bridge, "vp": Trigonometric}


def build_path(config: PathConfig) -> Path:
    """The path that the config names."""
    return KINDS[config.kind](config.sigma)


def per_sample(t: Time, x: Points) -> Tensor:
    """Times with trailing dimensions of 1, to stand against x."""
    return t.view(-1, *(1,) * (x.ndim - 1))
