"""Small pair stores for the tests of training, written with plain webdataset and numpy as the format describes them."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from webdataset import TarWriter

from flowpairs.pipeline.store.format import Index, Shard, write_index


def write_store(
    directory: Path,
    x0: np.ndarray,
    x1: np.ndarray,
    *,
    ids: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    shard_counts: list[int] | None = None,
    record_pairs: int = 64,
    method: str = "independent",
) -> Index:
    """Write float32 pairs in order, `shard_counts` of them a shard, `record_pairs` a record."""
    (directory / "shards").mkdir(parents=True)
    fields = {"x0": x0.astype(np.float32), "x1": x1.astype(np.float32)}
    fields |= {} if labels is None else {"label": labels.astype(np.int64)}
    fields |= {} if weights is None else {"weight": weights.astype(np.float32)}
    ids = np.arange(len(x1)) if ids is None else ids
    shards, first = [], 0
    for number, count in enumerate(shard_counts or [len(x0)]):
        path = directory / "shards" / f"pairs-{number:06d}.tar"
        starts = range(first, first + count, record_pairs)
        with TarWriter(str(path), encoder=False) as tar:
            for start in starts:
                rows = slice(start, min(start + record_pairs, first + count))
                record: dict[str, Any] = {f"{name}.npy": npy(array[rows]) for name, array in fields.items()}
                meta = json.dumps({"data_ids": ids[rows].tolist()}).encode()
                tar.write({"__key__": f"b000000-r{start:09d}", **record, "meta.json": meta})
        data = path.read_bytes()
        shards.append(Shard(path.name, 0, count, len(starts), len(data), hashlib.sha256(data).hexdigest()))
        first += count
    assert first == len(x0)
    index = Index(
        config_hash="0" * 16,
        data_fingerprint="f" * 16,
        pairs=len(x0),
        shape=x0.shape[1:],
        num_classes=0 if labels is None else int(labels.max()) + 1,
        payload="full",
        method=method,
        convention="",
        shards=tuple(shards),
        weighted=weights is not None,
    )
    write_index(directory, index)
    return index


def numbered_store(directory: Path, counts: list[int], record_pairs: int = 5) -> Index:
    """Pair i has x0 = [i, 2 i], x1 = [-i, i + 1/2] and label i mod 3: every row tells its number and its partner."""
    i = np.arange(sum(counts), dtype=np.float32)
    x0, x1 = np.stack([i, 2 * i], 1), np.stack([-i, i + 0.5], 1)
    return write_store(directory, x0, x1, labels=np.arange(len(i)) % 3, shard_counts=counts, record_pairs=record_pairs)


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
