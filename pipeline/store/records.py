"""Records: k pairs encoded as the members of a tar, and decoded again.

Three payloads hold the same pairs, bit by bit:

    full    x0.npy, x1.npy [k, ...] float32, label.npy [k] int64 where labelled, meta.json
    seeded  without x0.npy, which is generated again from the seed and the noise counters
    ids     id.npy [k] uint32 alone. x1 and label are looked up in the store's rows

Where x0 is data too, `seeded` does not exist, and `ids` also has source_id.npy [k] uint32, looked up in source_rows.
Where the noise rows are not consecutive, row.npy [k] uint64 lists them: in `ids` at most 12 bytes per pair. Where
pairs have weights for training, weight.npy [k] float32 holds them. meta.json names the seed, the block and the first
noise row; in `full` and `seeded` the data ids as well. docs/pair-format.md has the whole format, for other programs.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.base import npy
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.row_set import Manifest
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.store.format import Index, row_sides, rows_directory
from flowpairs.pipeline.store.shard_layout import opened, read_member, walk

Part = slice | Int64[np.ndarray, " r"]  # some pairs of a record


@dataclass(frozen=True)
class Record:
    """k pairs that are stored together.

    Attributes:
        first_row: position of the first pair in its block.
        x0: source rows; None where the payload leaves them out.
        x1: target rows; None where the payload leaves them out.
        data_ids: data ids of x1.
        labels: labels of x1, or None.
        seed: seed of the noise; None where the source is not this seed's noise.
        rows: global source rows of the noise; None where the source is not this seed's noise.
        weights: weights of the pairs in training, or None.
        source_ids: data ids of x0, where the source is a data set.
        span: in a chain over time, the start and end time of these pairs.
    """

    first_row: int
    x0: Float32[np.ndarray, "k ..."] | None
    x1: Float32[np.ndarray, "k ..."] | None
    data_ids: Int64[np.ndarray, " k"]
    labels: Int64[np.ndarray, " k"] | None
    seed: int | None
    rows: Int64[np.ndarray, " k"] | None
    weights: Float32[np.ndarray, " k"] | None = None
    source_ids: Int64[np.ndarray, " k"] | None = None
    span: tuple[float, float] | None = None


def encode_record(record: Record, payload: str, block: int) -> dict[str, bytes]:
    """Encode a record as the members of its tar entry, by extension."""
    first = None if record.rows is None else int(record.rows[0])
    meta: dict[str, Any] = {"block": block, "seed": record.seed, "first_noise_counter": first}
    if record.span is not None:
        meta["span"] = list(record.span)
    fields = {}
    if payload == "ids":
        fields["id.npy"] = npy.encode_npy(record.data_ids.astype("<u4"))
        if record.source_ids is not None:
            fields["source_id.npy"] = npy.encode_npy(record.source_ids.astype("<u4"))
    else:
        assert record.x1 is not None
        meta["data_ids"] = record.data_ids.tolist()
        if record.source_ids is not None:
            meta["source_ids"] = record.source_ids.tolist()
        fields["x1.npy"] = npy.encode_npy(record.x1)
        if record.labels is not None:
            fields["label.npy"] = npy.encode_npy(record.labels)
    if payload == "full":
        assert record.x0 is not None
        fields["x0.npy"] = npy.encode_npy(record.x0)
    else:
        restorable = record.rows is not None or (payload == "ids" and record.source_ids is not None)
        assert restorable, "x0 of another origin has no counter to come back from"
    if record.rows is not None and (np.diff(record.rows) != 1).any():
        fields["row.npy"] = npy.encode_npy(record.rows.astype("<u8"))
    if record.weights is not None:
        fields["weight.npy"] = npy.encode_npy(record.weights)
    return {**fields, "meta.json": json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()}


class Decoder:
    """Decodes the members of a record into arrays, whatever the payload.

    Args:
        directory: the pair store.
        index: index of the store.
    """

    def __init__(self, directory: str | AnyPath, index: Index) -> None:
        self.directory, self.index = as_path(directory), index

    def members(self, names: Sequence[str]) -> set[str]:
        """List the tar extensions that hold the named arrays, by their names in `decode`."""
        out: set[str] = set()
        for name in names:
            out |= self._sources[name]
        return out

    def decode(
        self, fields: Mapping[str, Any], names: Sequence[str], part: Part = slice(None)
    ) -> dict[str, np.ndarray]:
        """Decode the named arrays of a record, or of some of its pairs, since a record of ids may stand for gigabytes.

        These are x0, x1 [k, ...], weight [k], span [k, 2] float32, label, data_ids, source_ids, rows and seed of noise
        [k] int64.

        Args:
            fields: bytes of each member by extension; other entries, such as webdataset's `__key__`, are ignored.
            names: names of the wanted arrays.
            part: the record's pairs to decode; no others are looked up or generated.

        Raises:
            ValueError: a member is missing, is no plain array, or has another shape or type than the index promises.
        """
        out = {}
        for name in names:
            missing = {member for member in self._sources[name] if member not in fields and member != "row.npy"}
            if missing:
                raise ValueError(f"{sorted(missing)[0]} is missing")
            out[name] = getattr(self, f"_{name}")(fields, part)
        lengths = {name: len(array) for name, array in out.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"fields of different lengths: {lengths}")
        if not all(map(len, out.values())):
            raise ValueError("a record without pairs")
        return out

    @cached_property
    def _sources(self) -> dict[str, set[str]]:
        ids = {"id.npy"} if self.index.payload == "ids" else {"meta.json"}
        looked_up = self.index.payload == "ids"
        rows = {"meta.json", "row.npy"} | ids
        source = {"source_id.npy"} if looked_up else {"meta.json"}
        return {
            "x0": {"x0.npy"} if self.index.payload == "full" else source if self.index.two_sided else rows,
            "x1": ids if looked_up else {"x1.npy"},
            "label": ids if looked_up else {"label.npy"},
            "weight": {"weight.npy"},
            "data_ids": ids,
            "source_ids": source,
            "span": ids | {"meta.json"},
            "rows": rows,
            "seed": ids | {"meta.json"},
        }

    def _x0(self, fields: Mapping[str, Any], part: Part) -> Float32[np.ndarray, "k ..."]:
        if self.index.payload == "full":
            return array(fields, "x0.npy", np.float32, self.index.shape)[part]
        if self.index.two_sided:
            return self.source.read(self._source_ids(fields, part))
        rows = self._rows(fields, part)
        x0 = noise.gaussian_rows(_seed_of(fields), rows, math.prod(self.index.shape))
        return x0.reshape(-1, *self.index.shape)

    def _seed(self, fields: Mapping[str, Any], part: Part) -> Int64[np.ndarray, " k"]:
        return np.full(len(self._data_ids(fields, part)), _seed_of(fields))

    def _rows(self, fields: Mapping[str, Any], part: Part) -> Int64[np.ndarray, " k"]:
        """Decode the global source rows of the noise."""
        if "row.npy" in fields:
            rows = array(fields, "row.npy", np.uint64)
        else:
            first = read_meta(fields).get("first_noise_counter")
            if type(first) is not int or first < 0:
                raise ValueError(f"meta.json: first_noise_counter {first!r} is no source row")
            count = self._length(fields)
            rows = np.uint64(min(first, noise.ROWS)) + np.arange(count, dtype=np.uint64)
        if rows.size and rows.max() >= noise.ROWS:
            raise ValueError(f"noise row {rows.max()} is beyond the generator's {noise.ROWS}")
        return rows[part].astype(np.int64)

    def _length(self, fields: Mapping[str, Any]) -> int:
        """Count the pairs of a record."""
        if self.index.payload == "ids":
            return len(array(fields, "id.npy", np.uint32))
        return len(self._data_ids(fields, slice(None)))

    def _x1(self, fields: Mapping[str, Any], part: Part) -> Float32[np.ndarray, "k ..."]:
        if self.index.payload == "ids":
            return self.data.read(self._data_ids(fields, part))
        return array(fields, "x1.npy", np.float32, self.index.shape)[part]

    def _label(self, fields: Mapping[str, Any], part: Part) -> Int64[np.ndarray, " k"]:
        if self.index.payload == "ids":
            return self.labels[self._data_ids(fields, part) % len(self.data)]
        return array(fields, "label.npy", np.int64)[part]

    def _weight(self, fields: Mapping[str, Any], part: Part) -> Float32[np.ndarray, " k"]:
        return array(fields, "weight.npy", np.float32)[part]

    def _span(self, fields: Mapping[str, Any], part: Part) -> Float32[np.ndarray, "k 2"]:
        span = read_meta(fields).get("span")
        if not (isinstance(span, list) and len(span) == 2 and all(type(t) in (int, float) for t in span)):
            raise ValueError(f"meta.json: span {span!r} is no pair of times")
        if not 0 <= span[0] < span[1] <= 1:
            raise ValueError(f"meta.json: span {span!r} does not lead on from 0 to 1")
        return np.broadcast_to(np.array(span, np.float32), (len(self._data_ids(fields, part)), 2))

    def _data_ids(self, fields: Mapping[str, Any], part: Part) -> Int64[np.ndarray, " k"]:
        return self._ids(fields, "id.npy", "data_ids", "data", part)

    def _source_ids(self, fields: Mapping[str, Any], part: Part) -> Int64[np.ndarray, " k"]:
        return self._ids(fields, "source_id.npy", "source_ids", "source", part)

    def _ids(
        self, fields: Mapping[str, Any], member: str, listed: str, side: str, part: Part
    ) -> Int64[np.ndarray, " k"]:
        """Decode the ids of one side: those in `member`, or those that meta.json lists."""
        if self.index.payload != "ids":
            ids = np.array(read_meta(fields).get(listed))
            if ids.dtype != np.int64 or ids.ndim != 1:
                raise ValueError(f"meta.json: {listed} is no list of integers")
            return ids[part]
        ids, count = array(fields, member, np.uint32)[part].astype(np.int64), len(getattr(self, side))
        if ids.size and ids.max() >= 2 * count:
            raise ValueError(f"{member}: id {ids.max()} is beyond the {count} data and their mirror images")
        return ids

    @cached_property
    def data(self) -> Rows:
        """The store's rows."""
        return row_set.open_rows(rows_directory(self.directory), self._manifest)

    @cached_property
    def source(self) -> Rows:
        """The rows of the source; in a chain over time they are those of the target."""
        if len(row_sides(self.index)) == 1:
            return self.data
        directory = rows_directory(self.directory, "source")
        manifest = self._checked(directory, self.index.source_fingerprint)
        return row_set.open_rows(directory, manifest)

    @cached_property
    def labels(self) -> Int64[np.ndarray, " N"]:
        """The labels of the rows."""
        labels = self._column("label")
        if labels is None:
            raise ValueError("rows without labels, which the index promises")
        return labels

    @cached_property
    def data_weights(self) -> Float64[np.ndarray, " N"] | None:
        """The weights of the data; None where they count alike."""
        weights = self._column("weight")
        if weights is not None and not ((np.isfinite(weights) & (weights >= 0)).all() and weights.any()):
            raise ValueError("weight.npy: not finite numbers of 0 or more, some above 0")
        return weights

    @cached_property
    def _manifest(self) -> Manifest:
        return self._checked(rows_directory(self.directory), self.index.data_fingerprint)

    def _checked(self, directory: AnyPath, expected: str | None) -> Manifest:
        """Read a manifest of rows, and refuse those of other data than were coupled."""
        try:
            manifest = row_set.read_manifest(directory)
        except InputError as error:
            raise ValueError(str(error)) from error
        if manifest.shape != self.index.shape or manifest.fingerprint != expected:
            raise ValueError(f"{directory}: not the rows that were coupled; remove it and couple again")
        return manifest

    def _column(self, name: str) -> np.ndarray | None:
        try:
            return row_set.read_column(rows_directory(self.directory), self._manifest, name)
        except InputError as error:
            raise ValueError(str(error)) from error


def samples(path: AnyPath, extensions: Collection[str] | None = None) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key and the members, by extension, of each record of a shard, in order.

    Args:
        path: path of the tar.
        extensions: extensions of the members to read; None reads all.

    Raises:
        InputError: not a tar of plain files, or a member that occurs twice.
    """
    with opened(path) as file:
        for key, extents in walk(file):
            chosen = extents if extensions is None else {name: extents[name] for name in extents if name in extensions}
            yield key, {name: read_member(file, as_path) for name, as_path in chosen.items()}


def _seed_of(fields: Mapping[str, Any]) -> int:
    """Read the seed of a record's noise."""
    seed = read_meta(fields).get("seed")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise ValueError(f"meta.json: seed {seed!r} is no integer in [0, 2^63)")
    return seed


def read_meta(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Parse meta.json of a record.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        meta = json.loads(fields["meta.json"])
    except RecursionError as error:
        raise ValueError("meta.json is nested too deeply") from error
    if not isinstance(meta, dict):
        raise ValueError("meta.json is not a JSON object")
    return meta


def array(fields: Mapping[str, Any], member: str, dtype: type[np.generic], shape: tuple[int, ...] = ()) -> np.ndarray:
    """Decode an array of a record, read-only, with `shape` per pair.

    Raises:
        ValueError: the member is no array, or one of another shape or type.
    """
    try:
        out = npy.decode_npy(fields[member])
    except ValueError as error:
        raise ValueError(f"{member}: {error}") from error
    if out.dtype != dtype or out.ndim == 0 or out.shape[1:] != shape:
        raise ValueError(f"{member} is {list(out.shape)} of {out.dtype}, not {np.dtype(dtype)} of {list(shape)} a pair")
    return out
