"""Reads pairs from the shards of a store, named members alone; nothing is unpickled.

A shard is checked against the index (bytes, SHA-256) before it is first read, and against its count whenever it is read
to the end: a tar cut between two members would otherwise just read short.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.store.format import Index, Shard
from pipeline.store.integrity import damage
from pipeline.store.records import Decoder, samples
from training.order import Stretch

Record = dict[str, Any]  # "__key__" and the bytes of each member
Fields = dict[str, np.ndarray]  # "x0" and "x1" [k, *shape] float32, "label" and "data_ids" [k] int64


class ShardReader:
    """The pairs of a store by shard and row.

    Args:
        directory: of the pair store.
        index: what `read_index` returned for it.
        fields: names of the fields to decode, of x0, x1 and label.
    """

    def __init__(self, directory: str | Path, index: Index, fields: Sequence[str]) -> None:
        self.shards = Path(directory) / "shards"
        self.index = index
        self.fields = tuple(fields)
        self._decoder = Decoder(directory, index)
        self._checked: set[int] = set()

    def read(self, stretches: Sequence[Stretch]) -> Iterator[Fields]:
        """Stretch after stretch, in pieces as large as the records.

        Raises:
            InputError: a shard that is missing, damaged or not what the index says.
        """
        for stretch in stretches:
            shard = self.index.shards[stretch.shard]
            self._check(stretch.shard)
            left = 0
            for record in self._records(shard, self.fields):
                fields = self.decode(shard, record, self.fields)
                k = len(fields[self.fields[0]])
                a, b = max(stretch.start - left, 0), min(stretch.stop - left, k)
                if a < b:
                    yield {field: array[a:b] for field, array in fields.items()}
                left += k
                if left >= stretch.stop:
                    break
            if left < stretch.stop:
                raise InputError(self._damaged(shard, f"holds {left} pairs, the index says {shard.pairs}"))

    def records(self, fields: Sequence[str]) -> Iterator[tuple[Shard, Record]]:
        """All records of the store in order, each with its shard and the raw bytes that hold the named fields."""
        for number, shard in enumerate(self.index.shards):
            self._check(number)
            for record in self._records(shard, fields):
                yield shard, record

    def _records(self, shard: Shard, fields: Sequence[str]) -> Iterator[Record]:
        """The records of one shard, members that the fields do not need skipped."""
        for key, members in samples(self.shards / shard.name, self._decoder.members(fields)):
            yield {"__key__": key, **members}

    def decode(self, shard: Shard, record: Record, fields: Sequence[str]) -> Fields:
        """Arrays of a record, of the shapes and types that the index promises.

        Raises:
            InputError: no such field, no npy bytes, or another shape or type.
        """
        try:
            return self._decoder.decode(record, fields)
        except (ValueError, KeyError, OSError) as error:
            raise InputError(self._damaged(shard, f"record {record['__key__']!r}: {error}")) from error

    def _check(self, number: int) -> None:
        """Bytes and SHA-256 of a shard, once a process."""
        if number in self._checked:
            return
        shard = self.index.shards[number]
        found = damage(self.shards.parent, shard)
        if found:
            raise InputError(self._damaged(shard, found))
        self._checked.add(number)

    def _damaged(self, shard: Shard, what: str) -> str:
        return f"shard {str(self.shards / shard.name)!r}: {what}; remove it with its sidecar and couple again"
