"""The data set on one side of a pair store: every datum that occurs in its pairs, once."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.store.format import Index
from flowpairs.training.pairs.online import SemidiscreteStore
from flowpairs.training.pairs.reading.shards import ShardReader

LIMIT = 50_000  # number of data; more change a Frechet distance by less than the noise of the samples


@dataclass(frozen=True)
class Reference:
    """Distinct data, in the order of their first occurrence in the shards, or in the order of the data set."""

    x: Float32[Tensor, "n *shape"]
    label: Int64[Tensor, " n"] | None


def read_reference(directory: str | AnyPath, index: Index, side: Literal["target", "source"] = "target") -> Reference:
    """Read the distinct data of a store, up to LIMIT of them.

    Args:
        directory: the directory or URL of the pair store.
        index: the store's index, from `read_index`.
        side: the side to read; a source has data only in a two-sided store, and no labels.

    Raises:
        InputError: a shard is damaged.
    """
    if index.method == "semidiscrete":  # such a store holds its data set, and may have no shards
        store = SemidiscreteStore(as_path(directory), index)
        ids = np.arange(min(store.ids, LIMIT))
        labels = torch.from_numpy(store.labels(ids)) if index.num_classes else None
        return Reference(torch.from_numpy(store.data(ids)), labels)
    name, numbers = ("x1", "data_ids") if side == "target" else ("x0", "source_ids")
    fields = (name, "label") if index.num_classes and side == "target" else (name,)
    reader = ShardReader(directory, index, fields)
    seen: set[int] = set()
    parts: dict[str, list[np.ndarray]] = {field: [] for field in fields}
    for shard, key, members in reader.records((*fields, numbers)):
        new = []
        for row, datum in enumerate(reader.decode(shard, key, members, (numbers,))[numbers].tolist()):
            if datum not in seen and len(seen) < LIMIT:
                seen.add(datum)
                new.append(row)
        if new:
            for field, array in reader.decode(shard, key, members, fields).items():
                parts[field].append(array[new])
        if len(seen) == LIMIT:
            break
    arrays = {field: torch.from_numpy(np.concatenate(part)) for field, part in parts.items()}
    return Reference(arrays[name], arrays.get("label"))
