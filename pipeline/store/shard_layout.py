"""The layout of a shard: its tar is walked once, and from then on any pair is found at once."""

import hashlib
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from flowpairs.pipeline.base import npy
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, refuse_special
from flowpairs.pipeline.base.tar import Member, members, plain_members
from flowpairs.pipeline.store.format import Shard

HEADER_BYTES = 1024  # more than the header of any .npy member that `npy.encode_npy` writes

Extents = dict[str, tuple[int, int]]  # extension -> offset and size of a record's member


@runtime_checkable
class ReadableFile(Protocol):
    """An open file, local or one of fsspec's."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset."""

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes from there."""


@dataclass(frozen=True)
class ShardLayout:
    """Positions of the records of one shard, in arrays, since a store has about one record per MiB.

    Attributes:
        members: extensions of the members that the reader needs.
        extents: offset and size of each member; size -1 where a record lacks it.
        edges: number of pairs before each record, and in all.
    """

    members: tuple[str, ...]
    extents: Int64[np.ndarray, "records members 2"]
    edges: Int64[np.ndarray, " edges"]

    def read(self, file: ReadableFile, record: int) -> dict[str, bytes]:
        """Read the members of a record, by extension."""
        out = {}
        for name, (offset, size) in zip(self.members, self.extents[record].tolist(), strict=True):
            if size >= 0:
                out[name] = read_member(file, (offset, size))
        return out


def read_layout(path: AnyPath, wanted: Collection[str]) -> ShardLayout:
    """Walk through a shard and record where its records' wanted members lie.

    Raises:
        InputError: not a tar of plain files, a member that occurs twice, or a record without a member that has its
            length.
    """
    names = tuple(sorted(wanted))
    needed = [name for name in names if name.endswith(".npy") and name != "row.npy"]
    extents, edges = [], [0]
    with opened(path) as file:
        for key, found in walk(file):
            extents.append([found.get(name, (0, -1)) for name in names])
            # Ids alone are in meta.json of most payloads: any array of the record tells its length.
            arrays = [found[name] for name in needed or sorted(found) if name in found and name.endswith(".npy")]
            if not arrays:
                raise ValueError(f"record {key!r}: {needed[0] if needed else 'every array'} is missing")
            offset, size = arrays[0]
            edges.append(edges[-1] + npy.npy_length(read_member(file, (offset, min(size, HEADER_BYTES)))))
    return ShardLayout(names, np.array(extents, np.int64).reshape(-1, len(names), 2), np.array(edges))


def walk(file: ReadableFile) -> Iterator[tuple[str, Extents]]:
    """Yield the key and members of each record of a tar, in order; only headers are read.

    Raises:
        tarfile.TarError, ValueError and others: not a tar of plain files, or a member that occurs twice; see `opened`.
    """
    for key, parts in groupby(_members(file), lambda member: member[0].partition(".")[0]):
        found: Extents = {}
        for name, regular, offset, size in parts:
            extension = name.partition(".")[2]
            if not regular or extension in found:
                raise tarfile.ReadError(f"member {name!r} is no plain file, or stands twice")
            found[extension] = offset, size
        yield key, found


def _members(file: ReadableFile) -> Iterator[Member]:
    """Yield the members of a tar: quickly where it is as this project writes it, else by tarfile."""
    plain = plain_members(file)
    if plain is not None:
        yield from plain
        return
    source: Any = file
    with tarfile.open(fileobj=source, mode="r:") as tar:
        for member in members(tar):
            yield member.name, member.isreg(), member.offset_data, member.size


def read_member(file: ReadableFile, extent: tuple[int, int]) -> bytes:
    """Read the bytes at an offset, as many as there are up to a size."""
    file.seek(extent[0])
    return file.read(extent[1])


@contextmanager
def opened(path: AnyPath) -> Iterator[ReadableFile]:
    """Open a shard; whatever its tar makes the standard library raise becomes an `InputError` that names the shard."""
    try:
        refuse_special(path)
        with path.open("rb") as file:
            yield file
    except (tarfile.TarError, OSError, EOFError, OverflowError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a shard ({error}); run `flowpairs verify`") from error


def damage(directory: AnyPath, shard: Shard, *, content: bool = True) -> str | None:
    """Describe what is wrong with a shard, to follow its name in a sentence; None where nothing is wrong.

    Args:
        directory: the pair store.
        shard: the shard's entry in the index or the sidecar.
        content: also hash the file; its size alone, which takes no time, shows what a killed process left behind.
    """
    path = directory / "shards" / shard.name
    try:
        size = path.stat().st_size  # of a directory or a device not the shard's
    except FileNotFoundError:
        return "is missing"
    except OSError as error:  # a file in the place of a folder, a loop of links
        return f"cannot be read ({error.strerror or error})"
    if size != shard.bytes:
        return f"has {size} bytes, the index says {shard.bytes}" if path.is_file() else "is missing"
    if content:
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    return "has another SHA-256 than the index says"
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
    return None
