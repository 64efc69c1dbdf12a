"""`PairDataset`: the pairs of a store as a map-style dataset for `torch.utils.data.DataLoader`."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import Dataset

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.store.format import Index, read_index
from flowpairs.pipeline.store.shard_layout import opened
from flowpairs.training.pairs.reading.shard_batches import Tensors
from flowpairs.training.pairs.reading.shards import FIELDS, ShardReader, choose_fields, row_dtype, row_shape


class PairDataset(Dataset[Tensors]):
    """The pairs of a store by number, in the order of its shards, for every payload.

    `dataset[i]` is a dict of tensors; `dataset[2:8]` and `dataset[[3, 1]]` are dicts of stacked tensors:

        x0, x1     float32 [*shape]
        label      int64 []; if the store has labels
        data_id    int64 []; the id of x1
        source_id  int64 []; the id of x0, if x0 is data
        weight     float32 []; if the pairs have weights
        span       float32 [2]; for a chain over time, the times of x0 and x1, in [0, 1]

    The dataset holds no open file, so it is safe under fork and can be pickled for spawn. Each process hashes a shard
    before it first reads from it, and then remembers the positions of the records. A read fetches whole records of
    about 1 MiB; `PairLoader`, which reads long stretches, fetches each record once per epoch.

    Args:
        store: the directory or URL of a complete pair store.
        fields: the names of the tensors to read; None: all that the store has.

    Raises:
        InputError: a ValueError: there is no complete store, it has no pairs, or a field is unknown; and while reading,
            a shard is missing or damaged.
    """

    def __init__(self, store: str | AnyPath, *, fields: Sequence[str] | None = None) -> None:
        index = read_index(store)
        if not index.pairs:
            raise InputError(f"pair store {str(store)!r}: potentials without pairs; use flowpairs.Assigner")
        self._open(store, index, choose_fields(index, fields))

    def _open(self, store: str | AnyPath, index: Index, names: tuple[str, ...]) -> None:
        self._state = store, index, names
        self._names, self._reader = names, ShardReader(store, index, [FIELDS[name] for name in names])
        self._edges = np.cumsum([0] + [shard.pairs for shard in index.shards])

    def __len__(self) -> int:
        return int(self._edges[-1])

    def __getitem__(self, which: Any) -> Tensors:
        """Read one pair by its number, or the stacked pairs of a slice or of a list of numbers.

        Args:
            which: a number, counted from the end if negative; a slice; or a list, array or tensor of numbers.

        Returns:
            The tensors by name, with a leading dimension for a slice or a list.

        Raises:
            IndexError: a number is beyond the store.
            TypeError: `which` is none of these.
        """
        if isinstance(which, slice):
            return self._pairs(np.arange(len(self))[which])
        if hasattr(which, "__index__") and not getattr(which, "ndim", 0):
            found = self._pairs(np.array([operator.index(which)]))
            return {name: tensor[0] for name, tensor in found.items()}
        return self._pairs(_numbers(which))

    def __getitems__(self, which: Sequence[int]) -> list[Tensors]:
        """Read many pairs at once, as one dict per pair; a `DataLoader` calls this to make a batch.

        Args:
            which: the numbers of the pairs.

        Returns:
            The tensors of each pair by name.
        """
        found = self._pairs(_numbers(which))
        return [{name: tensor[row] for name, tensor in found.items()} for row in range(len(which))]

    def __getstate__(self) -> tuple[Any, ...]:
        return self._state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._open(*state)

    def _pairs(self, numbers: Int64[np.ndarray, " n"]) -> Tensors:
        """Read the numbered pairs, stacked; each record is read once."""
        beyond = (numbers < -len(self)) | (numbers >= len(self))
        if beyond.any():
            raise IndexError(f"pair {numbers[beyond][0]}: the store has {len(self)} pairs")
        numbers = numbers % len(self)
        shape, shards = self._reader.index.shape, np.searchsorted(self._edges, numbers, "right") - 1
        for shard in np.unique(shards).tolist():
            self._reader.layout(shard)  # a damaged one is refused before memory is taken for its pairs
        out = {name: np.empty((len(numbers), *row_shape(name, shape)), row_dtype(name)) for name in self._names}
        for shard in np.unique(shards).tolist():
            of_shard = np.flatnonzero(shards == shard)
            layout, rows = self._reader.layout(shard), numbers[of_shard] - self._edges[shard]
            records = np.searchsorted(layout.edges, rows, "right") - 1
            listed = self._reader.index.shards[shard]
            with opened(self._reader.shards / listed.name) as file:
                for record in np.unique(records).tolist():
                    chosen = records == record
                    members, part = layout.read(file, record), rows[chosen] - layout.edges[record]
                    fields = self._reader.decode(listed, f"number {record}", members, self._reader.fields, part)
                    for name, array in out.items():
                        array[of_shard[chosen]] = fields[FIELDS[name]]
        return {name: torch.from_numpy(array) for name, array in out.items()}


def _numbers(which: Any) -> Int64[np.ndarray, " n"]:
    """Convert a list, an array or a tensor of whole numbers to an array."""
    try:
        numbers = np.asarray(which)
    except ValueError:
        numbers = np.empty(0, object)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu") or numbers.dtype == object:
        raise TypeError(f"a PairDataset takes a number, a slice or a list of numbers, not {type(which).__name__}")
    return numbers.astype(np.int64)
