"""Records: k pairs as the members of a tar, and back.

Three payloads hold the same pairs, bit by bit:

    full    x0.npy, x1.npy [k, ...] float32, label.npy [k] int64 where labelled, meta.json
    seeded  without x0.npy, which is made again from the seed and the noise counters
    ids     id.npy [k] uint32 alone, and row.npy [k] uint64 where the noise rows do not follow each other: at most 12
            bytes a pair. x1 and label are looked up in the store's data.npy and labels.npy, a copy of the data set

meta.json names the seed, the block and the first noise counter; in `full` and `seeded` the data ids as well.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from pipeline import noise
from pipeline.features import gather
from pipeline.store.format import Index


@dataclass(frozen=True)
class Record:
    """k pairs that are stored together.

    Attributes:
        first_row: place of the first pair in its block.
        x0: source rows; None where the payload leaves them out.
        x1: target rows; likewise.
        data_ids: of x1.
        labels: of x1, or None.
        seed: of the noise; None where the source is no noise of ours.
        rows: global source rows, or None where they follow each other from `first_counter`.
        first_counter: global source row of the first pair.
    """

    first_row: int
    x0: Float32[np.ndarray, "k ..."] | None
    x1: Float32[np.ndarray, "k ..."] | None
    data_ids: Int64[np.ndarray, " k"]
    labels: Int64[np.ndarray, " k"] | None
    seed: int | None
    first_counter: int
    rows: Int64[np.ndarray, " k"] | None = None


def encode(record: Record, payload: str, block: int) -> dict[str, bytes]:
    """The members of a record's tar entry, by extension."""
    meta: dict[str, Any] = {"block": block, "seed": record.seed, "first_noise_counter": record.first_counter}
    fields = {}
    if payload == "ids":
        fields["id.npy"] = npy(record.data_ids.astype(np.uint32))
    else:
        assert record.x1 is not None
        meta["data_ids"] = record.data_ids.tolist()
        fields["x1.npy"] = npy(record.x1)
        if record.labels is not None:
            fields["label.npy"] = npy(record.labels)
    if payload == "full":
        assert record.x0 is not None
        fields["x0.npy"] = npy(record.x0)
    elif record.rows is not None:
        fields["row.npy"] = npy(record.rows.astype(np.uint64))
    return {**fields, "meta.json": json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()}


class Decoder:
    """Turns the members of a record back into arrays, whatever the payload.

    Args:
        directory: the pair store.
        index: its index.
    """

    def __init__(self, directory: str | Path, index: Index) -> None:
        self.directory, self.index = Path(directory), index

    def members(self, names: Sequence[str]) -> set[str]:
        """The tar extensions that hold the named arrays (of x0, x1, label, data_ids)."""
        out: set[str] = set()
        for name in names:
            out |= self._sources[name]
        return out

    def decode(self, fields: Mapping[str, Any], names: Sequence[str]) -> dict[str, np.ndarray]:
        """The named arrays of one record: x0, x1 [k, ...] float32, label and data_ids [k] int64.

        Args:
            fields: the bytes of each member by extension; other entries, such as webdataset's `__key__`, are ignored.
            names: of the arrays wanted.

        Raises:
            ValueError: a member is missing, is no plain array, or has another shape or type than the index promises.
        """
        out = {}
        for name in names:
            missing = {member for member in self._sources[name] if member not in fields and member != "row.npy"}
            if missing:
                raise ValueError(f"{sorted(missing)[0]} is missing")
            out[name] = getattr(self, f"_{name}")(fields)
        if len({len(array) for array in out.values()}) > 1:
            raise ValueError(f"fields of different lengths: { {name: len(array) for name, array in out.items()} }")
        return out

    @cached_property
    def _sources(self) -> dict[str, set[str]]:
        ids = {"id.npy"} if self.index.payload == "ids" else {"meta.json"}
        looked_up = self.index.payload == "ids"
        return {
            "x0": {"x0.npy"} if self.index.payload == "full" else {"meta.json", "row.npy"} | ids,
            "x1": ids if looked_up else {"x1.npy"},
            "label": ids if looked_up else {"label.npy"},
            "data_ids": ids,
        }

    def _x0(self, fields: Mapping[str, Any]) -> Float32[np.ndarray, "k ..."]:
        if self.index.payload == "full":
            return self._rows(fields, "x0.npy")
        meta, shape = read_meta(fields), self.index.shape
        count = len(self._data_ids(fields))
        dim = int(np.prod(shape, dtype=np.int64))
        if "row.npy" in fields:
            made = noise.gaussian_rows(meta["seed"], array(fields, "row.npy", np.uint64).astype(np.int64), dim)
        else:
            made = noise.gaussian(meta["seed"], meta["first_noise_counter"], count, dim)
        return made.reshape(-1, *shape)

    def _x1(self, fields: Mapping[str, Any]) -> Float32[np.ndarray, "k ..."]:
        if self.index.payload == "ids":
            return gather(self.data, self._data_ids(fields))
        return self._rows(fields, "x1.npy")

    def _label(self, fields: Mapping[str, Any]) -> Int64[np.ndarray, " k"]:
        if self.index.payload == "ids":
            return self.labels[self._data_ids(fields) % len(self.labels)]
        return array(fields, "label.npy", np.int64)

    def _data_ids(self, fields: Mapping[str, Any]) -> Int64[np.ndarray, " k"]:
        if self.index.payload != "ids":
            return np.array(read_meta(fields)["data_ids"], np.int64)
        ids = array(fields, "id.npy", np.uint32).astype(np.int64)
        if ids.size and ids.max() >= 2 * len(self.data):
            raise ValueError(f"id.npy: id {ids.max()} is beyond the {len(self.data)} data and their mirror images")
        return ids

    def _rows(self, fields: Mapping[str, Any], member: str) -> Float32[np.ndarray, "k ..."]:
        out = array(fields, member, np.float32)
        if out.shape[1:] != self.index.shape:
            raise ValueError(f"{member} is {list(out.shape)}, not {list(self.index.shape)} a pair")
        return out

    @cached_property
    def data(self) -> Float32[np.ndarray, "N ..."]:
        """The data set's copy in the store, mapped into memory."""
        return np.load(self.directory / "data.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def labels(self) -> Int64[np.ndarray, " N"]:
        """The labels' copy in the store."""
        return np.load(self.directory / "labels.npy", allow_pickle=False)


def samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members, by extension, of each record of a local tar; read with the standard library alone."""
    with tarfile.open(path, "r:") as tar:
        members = ((member.name.partition("."), tar.extractfile(member)) for member in tar)
        for key, fields in groupby(members, lambda item: item[0][0]):
            yield key, {name: file.read() for (_, _, name), file in fields if file is not None}


def read_meta(fields: Mapping[str, Any]) -> dict[str, Any]:
    """meta.json of a record; ValueError where it is no JSON object."""
    meta = json.loads(fields["meta.json"])
    if not isinstance(meta, dict):
        raise ValueError("meta.json is not a JSON object")
    return meta


def array(fields: Mapping[str, Any], member: str, dtype: type[np.generic]) -> np.ndarray:
    """A plain array of a record; ValueError where it is none, or of another type. Nothing is unpickled."""
    out = np.load(io.BytesIO(fields[member]), allow_pickle=False)
    if not isinstance(out, np.ndarray) or out.dtype != dtype or out.ndim == 0:
        raise ValueError(f"{member} is {getattr(out, 'dtype', type(out))}, not an array of {np.dtype(dtype)}")
    return out


def npy(values: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
