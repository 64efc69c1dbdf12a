"""Arrays in files, read a few rows at a time: mapped, by ranges, or as a stream from a compressed archive."""

import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from flowpairs.pipeline.data.discover import Site
from flowpairs.pipeline.data.formats.npy_header import NpyHeader, read_header

WHOLE = 2**30  # bytes; a larger array is never read at once
LOCAL_HEADER = 30  # bytes of a zip member's own header, without name and extra field

# The stream that a piece left where the next one goes on: file, member, checksum and row -> stream. At most one.
_left: dict[tuple[str, str, int, int], "_Stream"] = {}


class StoredArray(ABC):
    """An array of a file whose first axis counts rows."""

    dtype: np.dtype
    shape: tuple[int, ...]
    sequential = False

    @abstractmethod
    def rows(self, start: int, stop: int) -> Shaped[np.ndarray, "b ..."]:
        """Read some rows."""

    def close(self) -> None:  # noqa: B027
        """Free what is open."""


@dataclass
class InMemory(StoredArray):
    """An array that is at hand, mapped or small."""

    values: Shaped[np.ndarray, "n ..."]

    def __post_init__(self) -> None:
        self.dtype, self.shape = self.values.dtype, self.values.shape

    def rows(self, start: int, stop: int) -> Shaped[np.ndarray, "b ..."]:
        """View some rows."""
        return np.asarray(self.values[start:stop])


class InRange(StoredArray):
    """An array in C order at an offset of an open file."""

    def __init__(self, file: Any, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> None:
        self.file, self.dtype, self.shape, self.offset = file, dtype, shape, offset

    def rows(self, start: int, stop: int) -> Shaped[np.ndarray, "b ..."]:
        """Read some rows."""
        count = max(0, min(stop, self.shape[0]) - start)
        size = NpyHeader(self.dtype, self.shape[1:], False, 0).nbytes
        self.file.seek(self.offset + start * size)
        return _array(self.file.read(count * size), self.dtype, (count, *self.shape[1:]))


class InStream(StoredArray):
    """An array of a compressed archive, decompressed from the beginning on; rows are best read in order."""

    sequential = True

    def __init__(self, site: Site, path: str, member: zipfile.ZipInfo, header: NpyHeader) -> None:
        self.site, self.path, self.member, self.header = site, path, member, header
        self.dtype, self.shape = header.dtype, header.shape
        self.at = -1
        self.stream: _Stream | None = None

    def rows(self, start: int, stop: int) -> Shaped[np.ndarray, "b ..."]:
        """Decompress up to `stop`, and keep what follows `start`."""
        count, size = max(0, min(stop, self.shape[0]) - start), self.header.row_bytes
        stream = self._stream_at(start)
        data = stream.read(count * size)
        self.at = start + count
        return _array(data, self.dtype, (count, *self.shape[1:]))

    def close(self) -> None:
        """Leave the stream for the piece that goes on here, or close it at the end."""
        if self.stream is not None:
            if self.at < self.shape[0]:
                _forget()
                _left[self._key(self.at)] = self.stream
            else:
                self.stream.close()
            self.stream = None

    def _stream_at(self, row: int) -> "_Stream":
        if self.stream is None or self.at > row:
            self.close()
            self.at, self.stream = row, _left.pop(self._key(row), None)
        if self.stream is None:
            _forget()
            self.stream = _Stream(self.site.filesystem.open(self.path, "rb"), self.member.filename)
            self.stream.read(self.header.offset)
            self.at = 0
        left = (row - self.at) * self.header.row_bytes
        while left > 0:
            skipped = len(self.stream.read(min(left, 2**22)))
            if not skipped:
                raise ValueError("the archive is cut short")
            left -= skipped
        self.at = row
        return self.stream

    def _key(self, row: int) -> tuple[str, str, int, int]:
        return self.path, self.member.filename, self.member.CRC, row


class _Stream:
    """A member of an archive, with a file of its own."""

    def __init__(self, file: Any, name: str) -> None:
        self.file, self.archive = file, zipfile.ZipFile(file)
        self.member = self.archive.open(name)

    def read(self, count: int) -> bytes:
        return self.member.read(count)

    def close(self) -> None:
        self.member.close()
        self.archive.close()
        self.file.close()


def _forget() -> None:
    while _left:
        _left.popitem()[1].close()


def npy_array(site: Site, path: str, file: Any, size: int | None) -> StoredArray:
    """Open the array of a .npy file.

    Raises:
        ValueError: as `read_header`.
    """
    header = read_header(file, size)
    return _at(site, path, file, header, header.offset)


def npz_arrays(site: Site, path: str, file: Any) -> dict[str, StoredArray | ValueError]:
    """Open the arrays of a .npz file by name; of a member that is none, why.

    Raises:
        ValueError, zipfile.BadZipFile, and others: no archive.
    """
    archive = zipfile.ZipFile(file)
    out: dict[str, StoredArray | ValueError] = {}
    for member in archive.infolist():
        if member.is_dir():
            continue
        name = member.filename.removesuffix(".npy")
        try:
            with archive.open(member) as opened:
                header = read_header(opened, member.file_size)
        except ValueError as error:
            out[name] = error
            continue
        if member.compress_type == zipfile.ZIP_STORED:
            out[name] = _at(site, path, file, header, _data_offset(file, member) + header.offset)
        elif header.fortran and len(header.shape) > 1:
            if header.nbytes > WHOLE:
                out[name] = ValueError("compressed in Fortran order; save it with numpy.ascontiguousarray")
                continue
            data = archive.read(member)[header.offset :]
            out[name] = InMemory(np.frombuffer(data, header.dtype).reshape(header.shape, order="F"))
        else:
            out[name] = InStream(site, path, member, header)
    return out


def mapped(path: str, dtype: np.dtype, shape: tuple[int, ...], offset: int, fortran: bool = False) -> StoredArray:
    """Map an array of a local file into memory."""
    if 0 in shape:
        return InMemory(np.empty(shape, dtype))
    return InMemory(np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C"))


def _at(site: Site, path: str, file: Any, header: NpyHeader, offset: int) -> StoredArray:
    if site.local:
        return mapped(path, header.dtype, header.shape, offset, header.fortran)
    if header.fortran and len(header.shape) > 1:
        raise ValueError("remote and in Fortran order; save it with numpy.ascontiguousarray")
    return InRange(file, header.dtype, header.shape, offset)


def _data_offset(file: Any, member: zipfile.ZipInfo) -> int:
    """Find where the bytes of a stored member begin: its own header may differ from the directory's."""
    file.seek(member.header_offset)
    head = file.read(LOCAL_HEADER)
    if len(head) < LOCAL_HEADER or head[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no header at member {member.filename!r}")
    return (
        member.header_offset
        + LOCAL_HEADER
        + int.from_bytes(head[26:28], "little")
        + int.from_bytes(head[28:30], "little")
    )


def _array(data: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    values = np.frombuffer(data, dtype)
    if values.size != NpyHeader(np.dtype("u1"), shape, False, 0).nbytes:
        raise ValueError("the file is cut short")
    return values.reshape(shape)
