"""Base-2 logits of the Gibbs kernel, which backends reduce, computed a tile of whole rows at a time.

pipeline/ot/tiles/kernel.py derives them from a problem.
"""

import threading
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from flowpairs.pipeline.ot.costs.cost import CostFunction, tile
from flowpairs.pipeline.ot.tiles.centred_points import CentredPoints, slabs_of


@runtime_checkable
class Logits(Protocol):
    """Logits that include their `gamma`."""

    n: int
    m: int
    device: torch.device

    def restrict(self, rows: Int[Tensor, " r"], columns: Int[Tensor, " c"] | None) -> "Logits":
        """Return the same logits for some of the rows and columns; None is all columns."""

    def tile(self, rows: slice, out: Float[Tensor, "_ m"]) -> Float[Tensor, "r m"]:
        """Write the logits of some rows into the first rows of `out` and return them."""

    def empty(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """Allocate a tile, of the kernel's type and device."""


class InnerLogits:
    """`scale` times the products of centred points, plus `gamma`; see `Logits`.

    A tile is one product of `left` [n, d + 1] and `right` [m, d + 1], each made when a tile first needs it.
    """

    def __init__(
        self,
        rows: CentredPoints,
        columns: CentredPoints,
        scale: float,
        gamma: Float64[Tensor, " m"],
        dtype: torch.dtype,
    ) -> None:
        self.rows, self.columns, self.scale, self.gamma, self.dtype = rows, columns, scale, gamma, dtype
        self.n, self.m, self.device = len(rows), len(columns), rows.device
        self._one_thread, self._made = threading.Lock(), dict[str, Tensor]()

    @property
    def left(self) -> Float[Tensor, "n k"]:
        """The rows, scaled, and 1."""
        return self._factor("left", self.rows, self.scale, torch.ones(1, dtype=torch.float64, device=self.device))

    @property
    def right(self) -> Float[Tensor, "m k"]:
        """The columns and their gamma."""
        return self._factor("right", self.columns, 1.0, self.gamma)

    def _factor(self, name: str, points: CentredPoints, scale: float, last: Float64[Tensor, " k"]) -> Tensor:
        """Return a factor of the product, made once."""
        with self._one_thread:
            if name not in self._made:
                self._made[name] = self._filled(points, scale, last)
            return self._made[name]

    def _filled(self, points: CentredPoints, scale: float, last: Float64[Tensor, " k"]) -> Tensor:
        """Fill a factor, a slab at a time."""
        out = torch.empty(len(points), points.d + 1, dtype=self.dtype, device=self.device)
        for rows, own in points.slabs():
            out[rows, :-1] = own if scale == 1 else own * scale
        out[:, -1] = last
        return out

    def restrict(self, rows: Int[Tensor, " r"], columns: Int[Tensor, " c"] | None) -> "InnerLogits":
        """See `Logits.restrict`."""
        some = self.rows.restrict(rows)
        if columns is not None:
            return InnerLogits(some, self.columns.restrict(columns), self.scale, self.gamma[columns], self.dtype)
        if len(slabs_of(self.columns)) > 1:
            return FewInnerLogits(some, self.columns, self.scale, self.gamma, self.dtype)
        few = InnerLogits(some, self.columns, self.scale, self.gamma, self.dtype)
        few._made["right"] = self.right
        return few

    def tile(self, rows: slice, out: Float[Tensor, "_ m"]) -> Float[Tensor, "r m"]:
        """See `Logits.tile`."""
        left = self.left[rows]
        return torch.mm(left, self.right.T, out=out[: len(left)])

    def empty(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """See `Logits.empty`."""
        return torch.empty(rows, columns, dtype=self.dtype, device=self.device)


class FewInnerLogits(InnerLogits):
    """`InnerLogits` of few rows and many columns, whose factor is not kept: each tile makes it, a slab at a time."""

    def tile(self, rows: slice, out: Float[Tensor, "_ m"]) -> Float[Tensor, "r m"]:
        """See `Logits.tile`."""
        left = self.left[rows]
        for columns, own in self.columns.slabs():
            right = torch.cat([own, self.gamma[columns, None]], 1).to(self.dtype)
            torch.mm(left, right.T, out=out[: len(left), columns])
        return out[: len(left)]


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

    def restrict(self, rows: Int[Tensor, " r"], columns: Int[Tensor, " c"] | None) -> "CostLogits":
        """See `Logits.restrict`."""
        if columns is None:
            return CostLogits(self.cost, self.x0[rows], self.x1, self.scale, self.gamma)
        return CostLogits(self.cost, self.x0[rows], self.x1[columns], self.scale, self.gamma[columns])

    def tile(self, rows: slice, out: Float[Tensor, "_ m"]) -> Float[Tensor, "r m"]:
        """See `Logits.tile`."""
        cost = tile(self.cost, self.x0[rows], self.x1)
        return torch.add(self.gamma, cost, alpha=self.scale, out=out[: len(cost)])

    def empty(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """See `Logits.empty`."""
        return self.x0.new_empty(rows, columns)
