"""A batch of pairs, and which rows of the global batch it is."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class BatchRows:
    """Rows `start` to `stop` of a global batch of `total`: they say whose share of a step's randomness is whose."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start

    def split(self, count: int) -> list["BatchRows"]:
        """The rows in `count` parts of equal size."""
        size = len(self) // count
        return [BatchRows(first, first + size, self.total) for first in range(self.start, self.stop, size)]


@dataclass(frozen=True)
class BatchPart:
    """One worker's rows of every global batch, and the arcs (see training/pairs/reading/order.py) that they come from.

    Args:
        batch: global; a multiple of `arcs`, which it is laid out from arc after arc, batch / arcs rows of each.
        rank: of this worker.
        world: number of workers; they share out a batch that is no multiple of it as evenly as they can.
        arcs: of the order.
    """

    batch: int
    rank: int = 0
    world: int = 1
    arcs: int = 1

    def __post_init__(self) -> None:
        assert self.batch % self.arcs == 0
        assert 0 <= self.rank < self.world

    @property
    def per_arc(self) -> int:
        """Rows that every arc gives to a global batch."""
        return self.batch // self.arcs

    @property
    def rows(self) -> BatchRows:
        """This worker's rows of a global batch."""
        first, last = (rank * self.batch // self.world for rank in (self.rank, self.rank + 1))
        return BatchRows(first, last, self.batch)

    def slices(self) -> dict[int, slice]:
        """Arc -> which of its `per_arc` rows are this worker's."""
        rows, out = self.rows, {}
        for arc in range(rows.start // self.per_arc, -(-rows.stop // self.per_arc)):
            left = arc * self.per_arc
            out[arc] = slice(max(rows.start - left, 0), min(rows.stop - left, self.per_arc))
        return out


@dataclass(frozen=True)
class Batch:
    """Some pairs; `label` where the loader was asked for labels, `weight` and `span` where the pairs have them."""

    x0: Float[Tensor, "b *shape"]
    x1: Float[Tensor, "b *shape"]
    rows: BatchRows
    label: Int64[Tensor, " b"] | None = None
    weight: Float[Tensor, " b"] | None = None
    span: Float[Tensor, "b 2"] | None = None  # of a chain over time: when x0 and x1 are, between 0 and 1

    def split(self, count: int) -> list["Batch"]:
        """The pairs in `count` parts of equal size."""
        size, rows = len(self.rows) // count, self.rows.split(count)
        fields = {name: field.split(size) for name, field in self._tensors().items()}
        parts = zip(*fields.values(), strict=True)
        return [
            Batch(rows=some, **dict(zip(fields, part, strict=True))) for some, part in zip(rows, parts, strict=True)
        ]

    def to(self, device: torch.device) -> "Batch":
        """On another device; asynchronous from pinned memory."""
        fields = {name: field.to(device, non_blocking=True) for name, field in self._tensors().items()}
        return Batch(rows=self.rows, **fields)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: field for name, field in vars(self).items() if isinstance(field, Tensor)}
