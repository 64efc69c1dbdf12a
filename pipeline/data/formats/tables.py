"""Tables of Arrow: parquet, and Arrow's own files as Hugging Face's datasets keep them, mapped into memory."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.columns import (
    class_label,
    holds_images,
    holds_lists,
    image_rows,
    stored_labels,
    stored_rows,
)
from flowpairs.pipeline.data.formats.reader import Chunk, Reader
from flowpairs.pipeline.data.schema import measures


class TableReader(Reader):
    """Files of named columns."""

    whole_labels = True
    kind: str

    @abstractmethod
    def schema(self, file: str) -> pa.Schema:
        """Read a file's schema."""

    @abstractmethod
    def tables(self, file: str, start: int, stop: int | None, rows: int, names: list[str]) -> Iterator[tuple[int, Any]]:
        """Yield tables of some columns and rows, each with the number of its first row."""

    def find_columns(self, files: Sequence[str]) -> tuple[str, ...]:
        """Find the data's columns, and check that all files have them with the same types."""
        first: pa.Schema | None = None
        for file in files:
            schema = self.schema(file)
            try:
                _ = [field.name for field in schema]
            except UnicodeDecodeError as error:
                raise InputError(f"{file}: names of columns that are no text ({error}); write it again") from error
            if not self.columns:
                self.columns = self._chosen(schema, file)
            for name in self._wanted():
                if name not in schema.names:
                    raise InputError(
                        f"data.{self._key(name)}={name!r}: no such column in {file}; it has {', '.join(schema.names)}"
                    )
                if schema.names.count(name) > 1:
                    raise InputError(f"data.{self._key(name)}={name!r}: {file} has several such columns; rename one")
                if first is not None and schema.field(name).type != first.field(name).type:
                    raise InputError(
                        f"data.path={self.config.path!r}: column {name!r} is {schema.field(name).type} in {file}, "
                        f"but {first.field(name).type} before; give all files one schema"
                    )
                if (
                    first is not None
                    and name == self.config.label
                    and class_label(schema, name) != class_label(first, name)
                ):
                    raise InputError(
                        f"data.label={name!r}: {file} names its classes otherwise than the files before; give all "
                        "files the same names"
                    )
            first = first or schema
        return self.columns

    def chunks(self, file: str, start: int, stop: int | None, rows: int) -> Iterator[Chunk]:
        """Yield the named columns' rows."""
        where = f"data.column={','.join(self.columns)!r} of {file}"
        for first, table in self.tables(file, start, stop, rows, self._wanted()):
            kind = table.schema.field(self.columns[0]).type
            missing: np.ndarray | None = None
            if len(self.columns) == 1 and holds_images(kind):
                x: Any = image_rows(table.column(self.columns[0]))
            else:
                x, missing = stored_rows(table, list(self.columns), where)
            label = None
            if self.config.label is not None:
                label = stored_labels(table.column(self.config.label), f"data.label={self.config.label!r}")
            yield Chunk(file, first, x, label, self._measures(table), None, missing)

    def labels(self, file: str) -> Iterator[tuple[Any, int]]:
        """Yield the column of labels."""
        name = self.config.label
        assert name is not None
        for _, table in self.tables(file, 0, None, 2**16, [name]):
            yield stored_labels(table.column(name), f"data.label={name!r}"), len(table)

    def names_of_classes(self, file: str) -> tuple[str, ...] | None:
        """Read Hugging Face's names of the classes."""
        assert self.config.label is not None
        schema = self.schema(file)
        kind = schema.field(self.config.label).type
        return class_label(schema, self.config.label) if pa.types.is_integer(kind) else None

    def _measures(self, table: pa.Table) -> dict[str, np.ndarray]:
        out = {}
        for key, name in self.config.columns().items():
            column, where = table.column(name), f"data.{key}={name!r}"
            if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
                raise InputError(f"{where}: a column of {column.type}; give one number a row")
            out[key] = measures(column.to_numpy(), table.num_rows, where)
        return out

    def _chosen(self, schema: pa.Schema, file: str) -> tuple[str, ...]:
        named = [name.strip() for name in self.config.column.split(",")]
        if len(named) > 1:
            if len(set(named)) < len(named):
                raise InputError(f"data.column={self.config.column!r}: names a column twice; name each once")
            return tuple(named)
        can = [field.name for field in schema if holds_images(field.type) or holds_lists(field.type)]
        return (self._only(can, schema.names, f"column in {file}; it has"),)

    def _wanted(self) -> list[str]:
        label = [] if self.config.label is None else [self.config.label]
        return list(dict.fromkeys([*self.columns, *label, *self.config.columns().values()]))

    def _key(self, name: str) -> str:
        others = {"label": self.config.label, **self.config.columns()}
        return next((key for key, other in others.items() if name == other), "column")


class ParquetReader(TableReader):
    """Parquet files."""

    kind = "parquet"

    def schema(self, file: str) -> pa.Schema:
        """Read the footer."""
        with self._parquet(file) as opened:
            return opened.schema_arrow

    def count(self, file: str) -> int:
        """Read the footer."""
        with self._parquet(file) as opened:
            return opened.metadata.num_rows

    def tables(self, file: str, start: int, stop: int | None, rows: int, names: list[str]) -> Iterator[tuple[int, Any]]:
        """Yield tables out of the row groups that hold the rows."""
        with self._parquet(file) as opened:
            first = 0
            for group in range(opened.num_row_groups):
                length = opened.metadata.row_group(group).num_rows
                begin, end = max(start, first), first + length if stop is None else min(stop, first + length)
                at = first
                first += length
                if begin >= end:
                    continue
                for batch in opened.iter_batches(rows, [group], names):
                    low, high = max(begin, at), min(end, at + len(batch))
                    if low < high:
                        yield low, pa.Table.from_batches([batch.slice(low - at, high - low)])
                    at += len(batch)
                    if at >= end:
                        break

    @contextmanager
    def _parquet(self, file: str) -> Iterator[pq.ParquetFile]:
        with self._faults(file, "parquet"), self._open(file) as opened:
            yield pq.ParquetFile(opened)


class ArrowReader(TableReader):
    """Arrow's files and streams."""

    kind = "Arrow"

    def schema(self, file: str) -> pa.Schema:
        """Read the header."""
        with self._batches(file) as (schema, _):
            return schema

    def count(self, file: str) -> int:
        """Add up what the batches' headers say."""
        with self._batches(file) as (_, batches):
            return sum(len(batch) for batch in batches)

    def quick_count(self, files: Sequence[str]) -> list[int] | None:
        """Count mapped files; others would have to be read."""
        return [self.count(file) for file in files] if self.site.local else None

    def tables(self, file: str, start: int, stop: int | None, rows: int, names: list[str]) -> Iterator[tuple[int, Any]]:
        """Yield slices of the file's batches."""
        with self._batches(file) as (_, batches):
            first = 0
            for batch in batches:
                end = first + len(batch) if stop is None else min(stop, first + len(batch))
                chosen = batch.select(names)
                if max(start, first) < end:
                    chosen.validate(full=True)  # what is mapped has never been looked at
                for low in range(max(start, first), end, rows):
                    high = min(low + rows, end)
                    yield low, pa.Table.from_batches([chosen.slice(low - first, high - low)])
                first += len(batch)
                if stop is not None and first >= stop:
                    return

    @contextmanager
    def _batches(self, file: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        with self._faults(file, "Arrow"), self._source(file) as source:
            head = source.read(6)
            source.seek(0)
            if head == b"ARROW1":
                opened = pa.ipc.open_file(source)
                yield opened.schema, (opened.get_batch(number) for number in range(opened.num_record_batches))
            else:
                stream = pa.ipc.open_stream(source)
                yield stream.schema, iter(stream)

    def _source(self, file: str) -> Any:
        return pa.memory_map(file) if self.site.local else pa.PythonFile(self._open(file), "r")
