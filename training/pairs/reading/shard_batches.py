"""Batches from the shards of a pair store, made by arithmetic on an order and from windows of shuffled pairs."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from flowpairs.pipeline.blocks import noise
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.reading.order import Order
from flowpairs.training.pairs.reading.shards import ShardReader, row_dtype, row_shape
from flowpairs.training.pairs.reading.shuffle import ShuffledArc

GROUP_BYTES = 2**20  # small batches are made in groups of this size: passing one to another thread costs more than it

Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Steps:
    """The division of the epochs of an arc into batches.

    Args:
        per_arc: the number of pairs of an arc.
        rows: the number of rows of a batch that come from one arc.
        least: a last batch with fewer rows is left out of its epoch; None: batches extend into the next epoch.
    """

    per_arc: int
    rows: int
    least: int | None = None

    def at(self, taken: int) -> tuple[int, int]:
        """Return the rows of the batch that begins after `taken` pairs of all epochs, and `taken` of the next batch."""
        if self.least is None:
            return self.rows, taken + self.rows
        left = self.per_arc - taken % self.per_arc
        rows = min(self.rows, left)
        return rows, taken + (left if left - rows < self.least else rows)

    @property
    def per_epoch(self) -> int:
        """The number of batches of an epoch that starts with a batch of its own."""
        full, rest = divmod(self.per_arc, self.rows)
        return full + (rest >= max(1, self.least or 1))


def shard_batches(
    reader: ShardReader,
    order: Order,
    part: BatchPart,
    steps: Steps,
    taken: int,
    pin: bool = False,
    *,
    stored: bool = False,
) -> Iterator[list[Tensors]]:
    """Yield one worker's batches without end, in groups.

    Args:
        reader: the reader of the store; its fields name the tensors.
        order: the order of the pairs.
        part: this worker's part of the global batch.
        steps: the division of epochs into batches.
        taken: the number of pairs per arc that were returned before, over all epochs.
        pin: whether to put batches in pinned memory, for CUDA.
        stored: whether a reader by ids yields rows as they are stored and numbers of noise rows, in place of x0 and x1.
    """
    arcs = [ShuffledArc(reader, order, arc, taken) for arc in part.slices()]
    shape = reader.index.shape
    room = GROUP_BYTES // (8 * len(part.rows) * math.prod(shape))
    while True:
        rows, following = steps.at(taken)
        mine, count = part, 1
        for arc in arcs:
            arc.renew()
        if rows < part.per_arc:
            mine = dataclasses.replace(part, batch=rows * part.arcs, short=True)
        else:
            count = max(1, min(room, arcs[0].left // rows))
            following = steps.at(taken + (count - 1) * rows)[1]
        # Every group gets new memory, since the consumer may hold a batch for any time.
        group = {
            name: torch.empty(
                (count, len(mine.rows), *row_shape(name, shape)),
                dtype=torch.float32 if row_dtype(name) is np.float32 else torch.int64,
                pin_memory=pin,
            )
            for name in reader.fields
        }
        arrays, filled, slices = {name: tensor.numpy() for name, tensor in group.items()}, 0, mine.slices()
        for arc in arcs:
            rows_of_arc = slices.get(arc.arc, slice(0, 0))
            into = slice(filled, filled + rows_of_arc.stop - rows_of_arc.start)
            arc.take(count, rows, rows_of_arc, {name: array[:, into] for name, array in arrays.items()})
            filled = into.stop
            if left_out := following - taken - count * rows:
                arc.take(1, left_out, slice(0, 0), {})
        if reader.by_id:
            group |= _stored(reader, arrays, pin) if stored else _looked_up(reader, arrays, pin)
        yield [dict(zip(group, tensors, strict=True)) for tensors in zip(*group.values(), strict=True)]
        taken = following


def _looked_up(reader: ShardReader, arrays: dict[str, np.ndarray], pin: bool) -> Tensors:
    """Make the x0 and x1 of a group's ids and noise rows."""
    found = {}
    for name, ids, side in (("x1", "data_ids", "data"), ("x0", "source_ids", "source")):
        if ids in arrays:
            found[name] = (
                reader.rows(side).read(arrays[ids].reshape(-1)).reshape(*arrays[ids].shape, *reader.index.shape)
            )
    if "rows" in arrays:
        shape, numbers = reader.index.shape, arrays["rows"].reshape(-1)
        x0 = noise.gaussian_rows(int(arrays["seed"].flat[0]), numbers, math.prod(shape))
        found["x0"] = x0.reshape(*arrays["rows"].shape, *shape)
    tensors = {name: torch.from_numpy(array) for name, array in found.items()}
    return {name: tensor.pin_memory() if pin else tensor for name, tensor in tensors.items()}


def _stored(reader: ShardReader, arrays: dict[str, np.ndarray], pin: bool) -> Tensors:
    """Look up the rows of a group's ids, in the dtype in which they are stored."""
    found = {}
    for name, ids, side in (("stored_x1", "data_ids", "data"), ("stored_x0", "source_ids", "source")):
        if ids in arrays:
            rows = reader.rows(side)
            dtype = getattr(torch, rows.dtype)
            found[name] = torch.empty((*arrays[ids].shape, *rows.shape), dtype=dtype, pin_memory=pin)
            rows.take(arrays[ids].reshape(-1), found[name].numpy().reshape(-1, *rows.shape))
    return found
