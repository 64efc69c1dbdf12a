"""Reader of pairs from the shards of a store; it reads the requested members only and unpickles nothing.

A shard is checked against the index (bytes, SHA-256, number of pairs) before it is first read: a tar cut between two
members would otherwise read as a valid but shorter one. The positions of its records are kept, so that a read starts at
the first pair of a stretch.
"""

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.store.format import Index, Shard, pairs_per_record
from flowpairs.pipeline.store.records import Decoder, Part, samples
from flowpairs.pipeline.store.shard_layout import ShardLayout, damage, opened, read_layout
from flowpairs.training.pairs.reading.order import Stretch
from flowpairs.training.pairs.reading.shard_source import CompleteStore, ShardSource

# The fields of a pair: public name -> name in `Decoder.decode`.
FIELDS = {
    "x0": "x0",
    "x1": "x1",
    "label": "label",
    "data_id": "data_ids",
    "source_id": "source_ids",
    "weight": "weight",
    "span": "span",
}

WIDE = 1024  # numbers of a datum from which its noise takes much longer than to find the generator's place for it
WHOLE_IDS = 2**16  # pairs of a record of ids that are decoded at a time

Members = dict[str, bytes]  # the members of a record by extension
Fields = dict[str, np.ndarray]  # arrays by name, as `Decoder.decode` returns them


def choose_fields(index: Index, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Choose the fields to read, by their public names: those wanted, or all that the store has.

    Args:
        index: the index of the store.
        wanted: the names of the fields; None: all.

    Raises:
        InputError: the list is empty, or names a field that the store does not have.
    """
    absent = {"label": not index.num_classes, "source_id": not index.two_sided}
    absent |= {"weight": not index.weighted, "span": not index.times}
    there = tuple(name for name in FIELDS if not absent.get(name, False))
    if wanted is None:
        return there
    if isinstance(wanted, str) or not isinstance(wanted, Collection) or not wanted:
        raise InputError(f"fields={wanted!r}: give a list of names, as in fields=['x0', 'x1']")
    for name in wanted:
        if name not in there:
            raise InputError(f"fields: {name!r} is not in this store; choose among {', '.join(there)}")
    return tuple(name for name in there if name in wanted)


def row_shape(field: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one pair's field, given the shape of one datum."""
    return {"x0": shape, "x1": shape, "span": (2,)}.get(field, ())


def row_dtype(field: str) -> type[np.generic]:
    """Return the dtype of a field."""
    return np.float32 if field in ("x0", "x1", "weight", "span") else np.int64


def fields_by_id(index: Index, fields: Sequence[str]) -> tuple[str, ...]:
    """Replace x0 and x1 among the names of fields by what they are found by."""
    instead = {"x0": ("source_ids",) if index.two_sided else ("rows", "seed"), "x1": ("data_ids",)}
    return tuple(dict.fromkeys(name for field in fields for name in instead.get(field, (field,))))


class ShardReader:
    """A reader of the pairs of a store by shard and row.

    Args:
        directory: the directory or URL of the pair store.
        index: the store's index, from `read_index`.
        fields: the names of the fields to decode, among the values of FIELDS.
        source: the source of the shards; None: the index of a complete store.
        by_id: whether to decode, in place of x0 and x1, the ids and source rows that they are found by; only of a store
            of payload ids, where windows of pairs are then small. None: for rows of WIDE numbers or more.
    """

    def __init__(
        self,
        directory: str | AnyPath,
        index: Index,
        fields: Sequence[str],
        source: ShardSource | None = None,
        *,
        by_id: bool | None = False,
    ) -> None:
        self.directory = as_path(directory)
        self.shards = self.directory / "shards"
        self.index = index
        self.source: ShardSource = CompleteStore(index) if source is None else source
        self.by_id = index.payload == "ids" and (math.prod(index.shape) >= WIDE if by_id is None else by_id)
        self.fields = fields_by_id(index, fields) if self.by_id else tuple(fields)
        self.step = WHOLE_IDS if self.by_id else pairs_per_record(index.shape, "full")
        self._decoder = Decoder(directory, index)
        self._layouts: dict[int, ShardLayout] = {}

    def rows(self, side: str) -> Rows:
        """Open the rows of one side, "data" or "source".

        Raises:
            InputError: they are missing or damaged.
        """
        try:
            return getattr(self._decoder, side)
        except (OSError, ValueError) as error:
            raise InputError(f"pair store {str(self.directory)!r}: {error}") from error

    def read(self, stretches: Sequence[Stretch]) -> Iterator[Fields]:
        """Yield the pairs of stretches in order, in pieces of about 1 MiB, independent of the size of the records.

        Raises:
            InputError: a shard is missing or damaged, or differs from the index.
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
        """Yield the records of a complete store in order: shard, key, and the members that hold the named fields."""
        for shard in self.index.shards:
            self._check(shard)
            for key, members in samples(self.shards / shard.name, self._decoder.members(fields)):
                yield shard, key, members

    def decode(
        self, shard: Shard, record: str, members: Members, fields: Sequence[str], part: Part = slice(None)
    ) -> Fields:
        """Decode a record, or a part of its pairs, into arrays of the shapes and types that the index states.

        Args:
            shard: the shard of the record.
            record: the name of the record, for error messages.
            members: the members of the record.
            fields: the names of the fields to decode.
            part: the slice or the rows of the record's pairs to decode.

        Raises:
            InputError: a field is missing, is not npy bytes, or has another shape or type.
        """
        try:
            return self._decoder.decode(members, fields, part)
        except (ValueError, KeyError, OSError) as error:
            raise InputError(self._damaged(shard, f"record {record}: {error}")) from error

    def layout(self, number: int) -> ShardLayout:
        """Find the positions of the records of a shard, once per process, after a check of its bytes."""
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
        """Check the size and the SHA-256 of a shard."""
        found = damage(self.directory, shard)
        if found:
            raise InputError(self._damaged(shard, found))

    def _damaged(self, shard: Shard, what: str) -> str:
        return f"shard {str(self.shards / shard.name)!r}: {what}; remove it with its sidecar and couple again"
