"""Small pair stores for the tests of training, written by the project's own shard writer."""

from pathlib import Path

import numpy as np

from pipeline.store.format import Index, write_index
from pipeline.store.writer import Record, write_shard


def write_store(
    directory: Path,
    x0: np.ndarray,
    x1: np.ndarray,
    *,
    ids: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    shard_counts: list[int] | None = None,
    record_pairs: int = 64,
    method: str = "independent",
) -> Index:
    """Write float32 pairs in order, `shard_counts` of them a shard, `record_pairs` a record."""
    (directory / "shards").mkdir(parents=True)
    ids = np.arange(len(x1)) if ids is None else ids
    shards, first = [], 0
    for number, count in enumerate(shard_counts or [len(x0)]):
        stop = first + count
        records = [
            Record(
                first_row=left,
                x0=np.ascontiguousarray(x0[left : min(left + record_pairs, stop)], np.float32),
                x1=np.ascontiguousarray(x1[left : min(left + record_pairs, stop)], np.float32),
                data_ids=ids[left : min(left + record_pairs, stop)].astype(np.int64),
                labels=None if labels is None else labels[left : min(left + record_pairs, stop)].astype(np.int64),
                meta={},
            )
            for left in range(first, stop, record_pairs)
        ]
        shards.append(write_shard(directory, number, 0, records, first, {}).shard)
        first = stop
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
    )
    write_index(directory, index)
    return index
