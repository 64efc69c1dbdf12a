"""WebDataset tars: one encoded image or .npy array per sample, along with its class as text.

Only the named fields are read, and only as images, `.npy` without pickles, and text. Several archives in one file, as
`cat a.tar b.tar` makes them, are read one after the other.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.tar import members
from flowpairs.pipeline.data.discover import FORMATS
from flowpairs.pipeline.data.formats.npy_header import decode_array
from flowpairs.pipeline.data.formats.reader import DEFAULT, Chunk, Item, Reader
from flowpairs.pipeline.data.images import Unreadable

BLOCK = tarfile.BLOCKSIZE
STEP = 2**20  # bytes that are searched at once for the next archive


class TarReader(Reader):
    """Tars of samples."""

    has_columns = False

    def find_columns(self, files: Sequence[str]) -> tuple[str, ...]:
        """Check that `data.column` is a field that is decoded, or find the only one in the first sample."""
        name = self.config.column
        if name == DEFAULT:
            with self._open(files[0]) as file, self._faults(files[0], "tar"):
                first = next(self._grouped(file), None)
                fields = [] if first is None else [field for field, _ in first[1]]
            if first is not None:
                kinds = [field for field in fields if _is_decoded(field)]
                name = self._only(kinds, fields, f"field in sample {first[0]} of {files[0]}; it has")
        elif not _is_decoded(name):
            images = ", ".join(suffix[1:] for suffix, form in FORMATS.items() if form == "folder")
            raise InputError(f"data.column={name!r}: not a field that is decoded; give npy or one of {images}")
        return (name,)

    def count(self, file: str) -> int:
        """Count the samples by the headers of the members."""
        return sum(1 for _ in self._samples(file, lambda row: False))

    def quick_count(self, files: Sequence[str]) -> list[int] | None:
        """Count nothing: every member's header would have to be read."""
        return None

    def chunks(self, file: str, start: int, stop: int | None, rows: int) -> Iterator[Chunk]:
        """Yield samples."""
        names: list[str] = []
        x: list[Item] = []
        labels: list[bytes] = []
        row = start
        for number, (key, fields) in enumerate(
            self._samples(file, lambda row: start <= row and (stop is None or row < stop))
        ):
            if number < start:
                continue
            if stop is not None and number >= stop:
                break
            names.append(key)
            x.append(self._item(fields[self.columns[0]]))
            if self.config.label is not None:
                labels.append(fields[self.config.label])
            if len(x) == rows:
                yield Chunk(file, row, x, labels if self.labelled else None, {}, names)
                row, names, x, labels = number + 1, [], [], []
        if x:
            yield Chunk(file, row, x, labels if self.labelled else None, {}, names)

    def _item(self, data: bytes) -> Item:
        if not _is_array(self.columns[0]):
            return data
        try:
            return decode_array(data)
        except ValueError as error:
            return Unreadable(f"{error}; write it with numpy.save")

    def _samples(self, file: str, wanted: Any) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield the key and named fields of each sample, grouped by the WebDataset convention.

        Args:
            file: path of the tar.
            wanted: says of a row's number whether the content of its fields is read.

        Raises:
            InputError: not a tar, cut short, a sample's members not adjacent, or a named field missing or twice.
        """
        named = {"column": self.columns[0]} | ({} if self.config.label is None else {"label": self.config.label})
        keys: set[str] = set()
        with self._faults(file, "tar"), self._open(file) as opened:
            for row, (key, parts) in enumerate(self._grouped(opened)):
                fields: dict[str, bytes] = {}
                for field, read in parts:
                    if key in keys or field in fields:
                        raise InputError(
                            f"data.path={self.config.path!r}: sample {key} of {file} is not in one piece, or has "
                            f"{field!r} twice; write the tar with its members sorted by name"
                        )
                    fields[field] = read() if field in named.values() and wanted(row) else b""
                for option, field in named.items():
                    if field not in fields:
                        raise InputError(
                            f"data.{option}={field!r}: no such field in sample {key} of {file}; it has "
                            f"{', '.join(fields)}"
                        )
                keys.add(key)
                yield key, fields

    def _grouped(self, file: Any) -> Iterator[tuple[str, Iterator[tuple[str, Any]]]]:
        """Yield each sample's key and fields, each field with a function that reads it."""
        for key, parts in groupby(self._members(file), key=itemgetter(0)):
            yield key, ((field, read) for _, field, read in parts)

    def _members(self, file: Any) -> Iterator[tuple[str, str, Any]]:
        """Yield the key, field and content, as a function, of each file in all archives of a tar."""
        file.seek(0, os.SEEK_END)
        end, begin = file.tell(), 0
        if end == 0:
            raise tarfile.ReadError("empty file")
        while begin < end:
            file.seek(begin)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in members(tar):
                    stem, _, field = member.name.rpartition("/")[2].partition(".")
                    if member.isreg() and stem and field:
                        yield member.name.removesuffix(f".{field}"), field, _reader(tar, member)
                begin = _after_end_mark(file, tar.offset, end)


def _reader(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    def read() -> bytes:
        content = tar.extractfile(member)
        assert content is not None
        return content.read()

    return read


def _after_end_mark(file: Any, offset: int, end: int) -> int:
    """Find where the next archive begins after an archive's end; the end of the file without one.

    Raises:
        tarfile.ReadError: no end mark of two empty blocks, which tarfile accepts as complete.
    """
    file.seek(offset)
    if file.read(2 * BLOCK) != bytes(2 * BLOCK):
        raise tarfile.ReadError("cut short, its end mark is missing")
    while data := file.read(STEP):
        if any(data):
            used = len(data) - len(data.lstrip(b"\0"))
            return file.tell() - len(data) + used // BLOCK * BLOCK
    return end


def _is_array(field: str) -> bool:
    return PurePosixPath(f"x.{field}").suffix.lower() == ".npy"


def _is_decoded(field: str) -> bool:
    return _is_array(field) or FORMATS.get(PurePosixPath(f"x.{field}").suffix.lower()) == "folder"
