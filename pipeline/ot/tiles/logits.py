"""Base-2 logits of the Gibbs kernel, which backends reduce, computed a tile of whole rows at a time.

pipeline/ot/tiles/kernel.py derives them from a problem.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.costs.cost import CostFunction, tile


@runtime_checkable
class Logits(Protocol):
    """Logits that include their `gamma`."""

    n: int
    m: int
    device: torch.device

    def restrict(self, rows: Int[Tensor, " r"], columns: Int[Tensor, " c"]) -> "Logits":
        """Return the same logits for some of the rows and columns."""

    def tile(self, rows: slice, out: Float[Tensor, "_ m"]) -> Float[Tensor, "r m"]:
        """Write the logits of some rows into the first rows of `out` and return them."""

    def empty(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """Allocate a tile, of the kernel's type and device."""


class InnerLogits:
    """Rows of `left` [n, k] times rows of `right` [m, k]; see `Logits`."""

    def __init__(self, left: Float[Tensor, "n k"], right: Float[Tensor, "m k"]) -> None:
        self.left, self.right = left, right
        self.n, self.m, self.device = len(left), len(right), left.device

    def restrict(self, rows: Int[Tensor, " r"], columns: Int[Tensor, " c"]) -> "InnerLogits":
        """See `Logits.restrict`."""
        return InnerLogits(self.left[rows], self.right[columns])

    def tile(self, rows: slice, out: Float[Tensor, "_ m"]) -> Float[Tensor, "r m"]:
        """See `Logits.tile`."""
        left = self.left[rows]
        return torch.mm(left, self.right.T, out=out[: len(left)])

    def empty(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """See `Logits.empty`."""
        return self.left.new_empty(rows, columns)


class CostLogits:
    """`scale` times the cost plus `gamma`; see `Logits`."""

    def __init__(
        self,
        cost: CostFunction,
        x0: Float[Tensor, "n d"],
        x1: Float[Tensor, "m d"],
        scale: float,
        gamma: Float[Tensor, " m"],
    ) -> None:
        self.cost, self.x0, self.x1, self.scale, self.gamma = cost, x0, x1, scale, gamma
        self.n, self.m, self.device = len(x0), len(x1), x0.device

    def restrict(self, rows: Int[Tensor, " r"], columns: Int[Tensor, " c"]) -> "CostLogits":
        """See `Logits.restrict`."""
        return CostLogits(self.cost, self.x0[rows], self.x1[columns], self.scale, self.gamma[columns])

    def tile(self, rows: slice, out: Float[Tensor, "_ m"]) -> Float[Tensor, "r m"]:
        """See `Logits.tile`."""
        cost = tile(self.cost, self.x0[rows], self.x1)
        return torch.add(self.gamma, cost, alpha=self.scale, out=out[: len(cost)])

    def empty(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """See `Logits.empty`."""
        return self.x0.new_empty(rows, columns)
