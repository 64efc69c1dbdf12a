"""A batch of pairs, and the rows of the global batch that it holds."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks.device_noise import device_gaussian
from flowpairs.training.pairs.loader_state import whole_number


@dataclass(frozen=True)
class BatchRows:
    """Rows `start` to `stop` of a global batch of `total` rows; they select a worker's part of a step's randomness."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start

    def split(self, count: int) -> list["BatchRows"]:
        """Split the rows into `count` parts of equal size."""
        size = len(self) // count
        return [BatchRows(first, first + size, self.total) for first in range(self.start, self.stop, size)]


@dataclass(frozen=True)
class BatchPart:
    """One worker's rows of every global batch, and the arcs (see training/pairs/reading/order.py) that they come from.

    Args:
        batch: the size of the global batch, a multiple of `arcs` and of `world`; it consists of batch / arcs rows per
            arc, arc by arc.
        rank: the rank of this worker.
        world: the number of workers.
        arcs: the number of arcs of the order.
        short: whether this is the last batch of an epoch, which `world` need not divide: the workers' parts are then as
            even as possible.

    Raises:
        InputError: a number is out of range or does not divide the batch.
    """

    batch: int
    rank: int = 0
    world: int = 1
    arcs: int = 1
    short: bool = False

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("rank", 0), ("world", 1), ("arcs", 1)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        if self.rank >= self.world:
            raise InputError(
                f"rank={self.rank}: ranks count from 0, so with world={self.world} give at most {self.world - 1}"
            )
        for name in ("arcs",) if self.short else ("arcs", "world"):
            if self.batch % (count := getattr(self, name)):
                each = self.arcs if self.short else math.lcm(self.arcs, self.world)
                raise InputError(
                    f"batch={self.batch}: counts the pairs of all workers, and {name}={count} does not divide it; "
                    f"give {-(-self.batch // each) * each}"
                )

    @property
    def per_arc(self) -> int:
        """The number of rows per arc in a global batch."""
        return self.batch // self.arcs

    @property
    def rows(self) -> BatchRows:
        """This worker's rows of a global batch."""
        first, last = (rank * self.batch // self.world for rank in (self.rank, self.rank + 1))
        return BatchRows(first, last, self.batch)

    def slices(self) -> dict[int, slice]:
        """Map each arc that this worker reads to this worker's slice of the arc's `per_arc` rows."""
        rows, out = self.rows, {}
        for arc in range(rows.start // self.per_arc, -(-rows.stop // self.per_arc)):
            left = arc * self.per_arc
            out[arc] = slice(max(rows.start - left, 0), min(rows.stop - left, self.per_arc))
        return out


@dataclass(frozen=True)
class StoredBatch:
    """A batch of pairs by their ids and noise rows, of which `to` makes the pairs on the device that trains.

    Args:
        rows: the rows of the global batch.
        tensors: x1 as it is stored, ids, and source rows with their seed or x0 as it is stored; label, weight, span.
        drawn: see `Batch`.
    """

    rows: BatchRows
    tensors: dict[str, Tensor]
    drawn: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        """Copy what the pairs are made from to a device, asynchronously from pinned memory, and make them there."""
        seed = int(self.tensors["seed"][0]) if "seed" in self.tensors else 0  # one for all pairs of a store
        here = {name: field.to(device, non_blocking=True) for name, field in self.tensors.items() if name != "seed"}
        x1 = scaled_rows(here["stored_x1"])
        if "stored_x0" in here:
            x0 = scaled_rows(here["stored_x0"])
        else:
            x0 = device_gaussian(seed, here["rows"], math.prod(x1.shape[1:])).reshape(x1.shape)
        fields = {name: here[name] for name in ("label", "weight", "span") if name in here}
        return Batch(x0=x0, x1=x1, rows=self.rows, drawn=self.drawn, **fields)


def scaled_rows(x: Tensor) -> Float[Tensor, "b *shape"]:
    """Convert stored rows to model space: uint8 to x / 127.5 - 1, floats as they are.

    The divisor is a tensor: by a number, torch multiplies with its reciprocal on a GPU.
    """
    if x.dtype != torch.uint8:
        return x.float()
    return x.float().div_(torch.full((), 127.5, device=x.device)).sub_(1.0)


@dataclass(frozen=True)
class Batch:
    """A batch of pairs; `label` is None unless labels are requested, `weight` and `span` unless the pairs have them.

    `drawn` holds the random numbers of the step for these rows, as the objective has drawn them in the loader's thread
    (`Objective.draw`); it stays on the host.
    """

    x0: Float[Tensor, "b *shape"]
    x1: Float[Tensor, "b *shape"]
    rows: BatchRows
    label: Int64[Tensor, " b"] | None = None
    weight: Float[Tensor, " b"] | None = None
    span: Float[Tensor, "b 2"] | None = None  # for a chain over time: the times of x0 and x1, in [0, 1]
    drawn: dict[str, Tensor] = field(default_factory=dict)

    def split(self, count: int) -> list["Batch"]:
        """Split the pairs into `count` parts of equal size."""
        size, rows = len(self.rows) // count, self.rows.split(count)
        parts = []
        for number, some in enumerate(rows):
            part = slice(number * size, (number + 1) * size)
            fields, drawn = (
                {name: tensor[part] for name, tensor in tensors.items()} for tensors in (self._tensors(), self.drawn)
            )
            parts.append(Batch(rows=some, drawn=drawn, **fields))
        return parts

    def to(self, device: torch.device) -> "Batch":
        """Copy the pairs to another device, asynchronously from pinned memory."""
        fields = {name: field.to(device, non_blocking=True) for name, field in self._tensors().items()}
        return Batch(rows=self.rows, drawn=self.drawn, **fields)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: field for name, field in vars(self).items() if isinstance(field, Tensor)}
