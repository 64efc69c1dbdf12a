"""Reads pairs from the shards of a store, named members alone; nothing is unpickled.

A shard is checked against the index (bytes, SHA-256, number of pairs) before it is first read: a tar cut between two
members would otherwise just read short. Where its records lie is kept, so that a stretch is read from its first pair.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.store.format import Index, Shard, pairs_per_record
from flowpairs.pipeline.store.records import Decoder, Part, samples
from flowpairs.pipeline.store.shard_layout import ShardLayout, damage, opened, read_layout
from flowpairs.training.pairs.reading.order import Stretch
from flowpairs.training.pairs.reading.shard_source import CompleteStore, ShardSource

# What a pair has, by the names of the public face, and as `Decoder.decode` calls it.
FIELDS = {
    "x0": "x0",
    "x1": "x1",
    "label": "label",
    "data_id": "data_ids",
    "source_id": "source_ids",
    "weight": "weight",
    "span": "span",
}

Members = dict[str, bytes]  # of a record, by extension
Fields = dict[str, np.ndarray]  # as `Decoder.decode` gives them


def choose_fields(index: Index, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The public names of the fields to read: those wanted, or all that the store has.

    Raises:
        InputError: none, or one that the store does not have.
    """
    absent = {"label": not index.num_classes, "source_id": not index.two_sided}
    absent |= {"weight": not index.weighted, "span": not index.times}
    there = tuple(name for name in FIELDS if not absent.get(name, False))
    for name in there[:0] if wanted is None else wanted:
        if name not in there:
            raise InputError(f"fields: {name!r} is not in this store; choose among {', '.join(there)}")
    if wanted is not None and (not wanted or isinstance(wanted, str)):
        raise InputError(f"fields={wanted!r}: give a list of names, as in fields=['x0', 'x1']")
    return there if wanted is None else tuple(name for name in there if name in wanted)


def row_shape(field: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a pair's field, of data of some shape."""
    return {"x0": shape, "x1": shape, "span": (2,)}.get(field, ())


def row_dtype(field: str) -> type[np.generic]:
    """Its type."""
    return np.float32 if field in ("x0", "x1", "weight", "span") else np.int64


class ShardReader:
    """The pairs of a store by shard and row.

    Args:
        directory: of the pair store.
        index: what `read_index` returned for it.
        fields: names of the fields to decode, of x0, x1, label and weight.
        source: where to take shards from, if not from the index.
    """

    def __init__(
        self, directory: str | AnyPath, index: Index, fields: Sequence[str], source: ShardSource | None = None
    ) -> None:
        self.directory = as_path(directory)
        self.shards = self.directory / "shards"
        self.index = index
        self.source: ShardSource = CompleteStore(index) if source is None else source
        self.fields = tuple(fields)
        self.step = pairs_per_record(index.shape, "full")
        self._decoder = Decoder(directory, index)
        self._layouts: dict[int, ShardLayout] = {}

    def read(self, stretches: Sequence[Stretch]) -> Iterator[Fields]:
        """Stretch after stretch, in pieces of about 1 MiB, whatever the records hold.

        Raises:
            InputError: a shard that is missing, damaged or not what the index says.
        """
        for stretch in stretches:
            shard, layout = self.source.take(stretch.shard), self.layout(stretch.shard)
            first = np.searchsorted(layout.edges, stretch.start, "right") - 1
            last = np.searchsorted(layout.edges, stretch.stop, "left")
            with opened(self.shards / shard.name) as file:
                for record in range(first, last):
                    members, (left, right) = layout.read(file, record), layout.edges[record : record + 2].tolist()
                    stop = min(stretch.stop, right) - left
                    for start in range(max(stretch.start - left, 0), stop, self.step):
                        part = slice(start, min(start + self.step, stop))
                        yield self.decode(shard, f"number {record}", members, self.fields, part)

    def records(self, fields: Sequence[str]) -> Iterator[tuple[Shard, str, Members]]:
        """All records of a complete store in order: shard, key, and the members that hold the named fields."""
        for shard in self.index.shards:
            self._check(shard)
            for key, members in samples(self.shards / shard.name, self._decoder.members(fields)):
                yield shard, key, members

    def decode(
        self, shard: Shard, record: str, members: Members, fields: Sequence[str], part: Part = slice(None)
    ) -> Fields:
        """Arrays of a record, or of a part of its pairs, of the shapes and types that the index promises.

        Raises:
            InputError: no such field, no npy bytes, or another shape or type.
        """
        try:
            return self._decoder.decode(members, fields, part)
        except (ValueError, KeyError, OSError) as error:
            raise InputError(self._damaged(shard, f"record {record}: {error}")) from error

    def layout(self, number: int) -> ShardLayout:
        """Where the records of a shard lie, found once a process, behind the check of its bytes."""
        if number not in self._layouts:
            shard = self.source.take(number)
            self._check(shard)
            layout = read_layout(self.shards / shard.name, self._decoder.members(self.fields))
            if layout.edges[-1] != shard.pairs:
                found = f"holds {layout.edges[-1]} pairs, the index says {shard.pairs}"
                raise InputError(self._damaged(shard, found))
            self._layouts[number] = layout
        return self._layouts[number]

    def _check(self, shard: Shard) -> None:
        """Bytes and SHA-256 of a shard."""
        found = damage(self.directory, shard)
        if found:
            raise InputError(self._damaged(shard, found))

    def _damaged(self, shard: Shard, what: str) -> str:
        return f"shard {str(self.shards / shard.name)!r}: {what}; remove it with its sidecar and couple again"
