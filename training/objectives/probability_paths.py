"""Probability paths: the points between x0 and x1 that a model is trained on, and their target velocities.

All paths are Gaussian: p_t(x given x0, x1) = N(mean_t, std_t^2), sampled as x_t = mean_t + std_t z with standard noise
z. The time derivative mean_t' + std_t' z is the regression target (arXiv 2302.00482, table 1).
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
        sigma: the spread of the path, in units of x; each subclass defines its meaning.
    """

    margin = 0.0  # least distance of the times from 0 and from 1

    def __init__(self, sigma: float = 0.0) -> None:
        self.sigma = sigma

    @property
    def noisy(self) -> bool:
        """Whether x_t depends on z, so that `point` and `velocity` need it."""
        return self.sigma > 0

    def point(self, t: Time, x0: Points, x1: Points, z: Points | None = None) -> Points:
        """Compute x_t at each pair's own time.

        Args:
            t: the time of each pair.
            x0: the source points of the pairs.
            x1: the target points of the pairs.
            z: standard noise; required if the path is noisy.
        """
        t = per_sample(t, x1)
        mean = self.mean(t, x0, x1)
        return mean + self.std(t) * self._needed(z) if self.noisy else mean

    def velocity(self, t: Time, x0: Points, x1: Points, z: Points | None = None) -> Points:
        """Compute d x_t / dt at each pair's own time and fixed z: the regression target."""
        t = per_sample(t, x1)
        rate = self.mean_rate(t, x0, x1)
        return rate + self.std_rate(t) * self._needed(z) if self.noisy else rate

    # In the methods below, t already has trailing dimensions of 1, so that it broadcasts against x.

    @abstractmethod
    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Compute mean_t."""

    @abstractmethod
    def mean_rate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Compute mean_t', the time derivative of mean_t."""

    def std(self, t: Tensor) -> Tensor:
        """Compute std_t; it is constant unless a subclass overrides it."""
        return torch.full_like(t, self.sigma)

    def std_rate(self, t: Tensor) -> Tensor:
        """Compute std_t', the time derivative of std_t."""
        return torch.zeros_like(t)

    def score(self, t: Time, x: Points, v: Points) -> Points:
        """Compute the score grad log p_t(x) of the marginal from its velocity, by linear algebra on conditional means.

        The formula holds if x0 is N(0, I) and independent of x1, and, for sigma = 0, if x0 determines x1 by a
        semi-discrete coupling at eps = 0: there too x0 given x1 has the Gaussian's score.

        Args:
            t: the times, in [0, 1).
            x: the points.
            v: the marginal velocity at (t, x).

        Raises:
            NotImplementedError: the path is a bridge, whose velocity does not determine its score.
        """
        raise NotImplementedError(f"{type(self).__name__}: its velocity does not determine its score")

    def _needed(self, z: Tensor | None) -> Tensor:
        assert z is not None, "a noisy path needs noise"
        return z


class Straight(Path):
    """The path N((1 - t) x0 + t x1, sigma^2), with velocity x1 - x0.

    It is I-CFM on independent pairs, OT-CFM on optimal pairs, and rectified flow with sigma = 0.
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
    """The path N(t x1, (1 - (1 - sigma) t)^2), with velocity x1 - (1 - sigma) z: Lipman et al., eq. 20 to 23.

    The source is z, standard Gaussian and independent of x1; x0 is not used, and so its coupling has no effect.
    """

    @property
    def noisy(self) -> bool:
        """Always True: z is the source."""
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

    Their mixture over entropic pairs of absolute eps = 2 sigma^2 on squared distances, or sigma^2 on the dot product,
    is the Schroedinger bridge between the two distributions. The velocity has a pole at t = 0 and at t = 1, where the
    mean of its square diverges, so times keep the distance `margin` from both.
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
        """See `Path`: std_t' z is (1 - 2 t) / (2 t (1 - t)) (x - mean_t) for z = (x - mean_t) / std_t."""
        return self.sigma * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())


class Trigonometric(Path):
    """The path N(cos(pi t / 2) x0 + sin(pi t / 2) x1, sigma^2): VP-CFM, variance preserving on independent pairs."""

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
    """Build the path that the config names."""
    return KINDS[config.kind](config.sigma)


def per_sample(t: Time, x: Points) -> Tensor:
    """Append dimensions of 1 to times, so that they broadcast against x."""
    return t.view(-1, *(1,) * (x.ndim - 1))
