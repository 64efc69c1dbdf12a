"""Folders in which a file is a row: images, or .npy arrays as latents are kept; the class is the folder.

A .npy file whose rows, not the whole of it, have the shape of the others holds as many data as it has rows.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.discover import pointer_reason, split_of_directory
from flowpairs.pipeline.data.formats.npy_header import NpyHeader, decode_array, read_header
from flowpairs.pipeline.data.formats.reader import Chunk, Item, Reader
from flowpairs.pipeline.data.images import Unreadable
from flowpairs.pipeline.data.spec import FilePart


class FolderReader(Reader):
    """A folder of images."""

    has_columns = False
    rows_in_files = True
    whole_labels = True

    def find_columns(self, files: Sequence[str]) -> tuple[str, ...]:
        """Check that every file has a class folder where labels are asked for."""
        without = [] if not self.labelled else [file for file in files if not self._class_of(file)]
        if without:
            raise InputError(
                f"data.label={self.config.label!r}: {len(without):,} files have no class folder below "
                f"{self.config.path!r}, {without[0]} first; move them into one folder per class, or leave data.label "
                "out"
            )
        return ()

    def count(self, file: str) -> int:
        """Count one."""
        return 1

    def chunks(self, file: str, start: int, stop: int | None, rows: int) -> Iterator[Chunk]:
        """Yield the row of a file."""
        return self.parts([FilePart(file, start, 1)], rows)

    def parts(self, parts: Sequence[FilePart], rows: int) -> Iterator[Chunk]:
        """Yield the rows of files."""
        for first in range(0, len(parts), rows):
            files = [part.path for part in parts[first : first + rows] if part.start == 0]
            labels = [self._class_of(file) for file in files] if self.labelled else None
            yield Chunk(files, 0, [self._content(file) for file in files], labels)

    def _content(self, file: str) -> Item:
        try:
            return self.site.filesystem.cat_file(file)
        except FileNotFoundError:
            raise
        except OSError as error:
            return Unreadable(f"cannot be opened ({error.strerror or error}); check the file")

    def labels(self, file: str) -> Iterator[tuple[Any, int]]:
        """Yield the class of a file."""
        yield [self._class_of(file)], 1

    def _class_of(self, file: str) -> str:
        """Name a file's class: its folder's path below the root, without the folder of the split."""
        parts = list(self.site.below(file)[:-1])
        if self.config.split is not None:
            split = next((number for number, part in enumerate(parts) if split_of_directory(part) is not None), None)
            if split is not None:
                del parts[split]
        return "/".join(parts)


class ArraysReader(FolderReader):
    """A folder of .npy arrays."""

    def count(self, file: str) -> int:
        """Count the rows by the header."""
        with self._open(file) as opened:
            return self._rows(self._header(opened))

    def quick_count(self, files: Sequence[str]) -> list[int] | None:
        """Count nothing: a file's header says how many rows it has."""
        return None

    def parts(self, parts: Sequence[FilePart], rows: int) -> Iterator[Chunk]:
        """Yield the rows of parts of files."""
        return Reader.parts(self, parts, rows)

    def chunks(self, file: str, start: int, stop: int | None, rows: int) -> Iterator[Chunk]:
        """Yield the rows of a file."""
        with self._open(file) as opened:
            try:
                header = self._header(opened)
                opened.seek(0)
                stored = decode_array(opened.read())
            except (ValueError, OSError) as error:
                opened.seek(0)
                reason = pointer_reason(opened.read(64)) or f"{error}; write it with numpy.save"
                yield Chunk(file, 0, [Unreadable(reason)], self._class_labels(file, 1))
                return
        block = stored if self._is_block(header) else stored[None]
        for first in range(start, min(len(block), len(block) if stop is None else stop), rows):
            some = block[first : min(first + rows, len(block) if stop is None else stop)]
            yield Chunk(file, first, list(some), self._class_labels(file, len(some)))

    def _class_labels(self, file: str, rows: int) -> list[str] | None:
        return [self._class_of(file)] * rows if self.labelled else None

    def _header(self, opened: Any) -> NpyHeader:
        opened.seek(0, os.SEEK_END)
        size = opened.tell()
        opened.seek(0)
        return read_header(opened, size)

    def _rows(self, header: NpyHeader) -> int:
        return header.shape[0] if self._is_block(header) else 1

    def _is_block(self, header: NpyHeader) -> bool:
        """Return whether the first axis counts data: an array of four axes is no single datum."""
        return len(header.shape) == 4
