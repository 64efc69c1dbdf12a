"""Probability paths: what the model sees between a pair's two ends, and the velocity it should answer there.

t runs from 0 (source, x0) to 1 (target, x1).
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Path(Protocol):
    """A conditional path x_t given (x0, x1) and its time derivative."""

    def point(
        self, t: Float[Tensor, " b"], x0: Float[Tensor, "b *shape"], x1: Float[Tensor, "b *shape"]
    ) -> Float[Tensor, "b *shape"]:
        """x_t at each pair's own time."""
        ...

    def velocity(
        self, t: Float[Tensor, " b"], x0: Float[Tensor, "b *shape"], x1: Float[Tensor, "b *shape"]
    ) -> Float[Tensor, "b *shape"]:
        """d x_t / dt at each pair's own time: the regression target."""
        ...


class StraightPath:
    """x_t = (1 - t) x0 + t x1, velocity x1 - x0 (arXiv 2302.00482, eq. 14 with sigma = 0)."""

    def point(
        self, t: Float[Tensor, " b"], x0: Float[Tensor, "b *shape"], x1: Float[Tensor, "b *shape"]
    ) -> Float[Tensor, "b *shape"]:
        """x_t at each pair's own time."""
        t = t.view(-1, *(1,) * (x0.ndim - 1))
        return (1 - t) * x0 + t * x1

    def velocity(
        self, t: Float[Tensor, " b"], x0: Float[Tensor, "b *shape"], x1: Float[Tensor, "b *shape"]
    ) -> Float[Tensor, "b *shape"]:
        """x1 - x0, the same at all times."""
        return x1 - x0
