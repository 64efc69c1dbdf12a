"""The data set on one side of a pair store: every datum that occurs in its pairs, once.

Pairs of method reflow hold samples of a flow; their data set is the one that the flow learnt, in the store's rows.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.store.format import Index, rows_directory
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
        InputError: a shard is damaged, or the rows of pairs of method reflow are gone.
    """
    if index.method == "reflow":
        return _learnt(rows_directory(as_path(directory)), index)
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


def _learnt(rows: AnyPath, index: Index) -> Reference:
    """Read the data that the flow behind pairs of method reflow learnt."""
    target = None if row_set.lost_files(rows) else row_set.open_target(rows)
    if target is None or target.rows.shape != index.shape or target.fingerprint != index.data_fingerprint:
        raise InputError(f"{rows}: not the data that the flow learnt whose samples these pairs hold; give data=PATH")
    ids = np.arange(min(len(target), LIMIT))
    labels = None if target.labels is None or not index.num_classes else torch.from_numpy(target.labels[ids])
    return Reference(torch.from_numpy(target.rows.read(ids)), labels)
