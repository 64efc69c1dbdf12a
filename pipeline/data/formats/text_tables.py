"""CSV and TSV of numbers, also compressed by gzip: columns by their header, read as a stream."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.columns import holds_scalars, stored_rows
from flowpairs.pipeline.data.formats.reader import DEFAULT, Chunk, Reader
from flowpairs.pipeline.data.schema import measures

BLOCK = 2**22  # bytes of text that are parsed at once
INDEX = re.compile(r"|Unnamed: \d+")  # what pandas writes for the index of rows, and reads back
MISSING = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"]


class CsvReader(Reader):
    """Tables as text."""

    whole_labels = True

    def find_columns(self, files: Sequence[str]) -> tuple[str, ...]:
        """Take the named columns, or all numeric ones that are not the label, the weight or the time."""
        first: list[str] | None = None
        for file in files:
            kinds = self._kinds(file)
            if not self.columns:
                self.columns = self._chosen(kinds, file)
            for key, name in [*(("column", name) for name in self.columns), *self._sides().items()]:
                if name not in kinds:
                    raise InputError(f"data.{key}={name!r}: no such column in {file}; it has {_listed(list(kinds))}")
            if first is not None and list(kinds) != first and self.config.column == DEFAULT:
                raise InputError(
                    f"data.path={self.config.path!r}: {file} has the columns {_listed(list(kinds))}, the files before "
                    f"{_listed(first)}; give all files one header, or name data.column"
                )
            first = first or list(kinds)
        return self.columns

    def count(self, file: str) -> int:
        """Count the lines after the header."""
        return sum(len(batch) for batch in self._batches(file, [self.columns[0]]))

    def quick_count(self, files: Sequence[str]) -> list[int] | None:
        """Count nothing: the whole text would have to be read."""
        return None

    def sequential(self, files: Sequence[str]) -> bool:
        """Return True: lines are found by reading."""
        return True

    def chunks(self, file: str, start: int, stop: int | None, rows: int) -> Iterator[Chunk]:
        """Yield the lines' numbers."""
        where = f"data.column={','.join(self.columns)!r} of {file}"
        first = 0
        for batch in self._batches(file, list(dict.fromkeys([*self.columns, *self._sides().values()]))):
            end = first + len(batch) if stop is None else min(stop, first + len(batch))
            for low in range(max(start, first), end, rows):
                high = min(low + rows, end)
                table = pa.Table.from_batches([batch.slice(low - first, high - low)])
                x, missing = stored_rows(table.select(list(self.columns)), list(self.columns), where)
                label = None if self.config.label is None else table.column(self.config.label).to_pylist()
                columns = {
                    key: measures(table.column(name).to_numpy(), len(table), f"data.{key}={name!r}")
                    for key, name in self.config.columns().items()
                }
                yield Chunk(file, low, x, label, columns, None, missing)
            first += len(batch)
            if stop is not None and first >= stop:
                return

    def labels(self, file: str) -> Iterator[tuple[Any, int]]:
        """Yield the column of labels."""
        assert self.config.label is not None
        for batch in self._batches(file, [self.config.label]):
            yield batch.column(0).to_pylist(), len(batch)

    def _sides(self) -> dict[str, str]:
        return {**({} if self.config.label is None else {"label": self.config.label}), **self.config.columns()}

    def _chosen(self, kinds: dict[str, Any], file: str) -> tuple[str, ...]:
        named = tuple(name.strip() for name in self.config.column.split(","))
        if named != (DEFAULT,) or DEFAULT in kinds:
            if len(set(named)) < len(named):
                raise InputError(f"data.column={self.config.column!r}: names a column twice; name each once")
            return named
        others = [name for name in kinds if name not in self._sides().values()]
        numeric = [name for name in others if holds_scalars(kinds[name]) and not INDEX.fullmatch(name)]
        if not numeric:
            raise InputError(
                f"data.path={self.config.path!r}: no column of numbers in {file}; it has {_listed(list(kinds))}"
            )
        rest = [name for name in others if name not in numeric]
        if rest:
            named_so = _listed([name or "the one without a name" for name in rest])
            self.notes.append(f"{len(numeric)} columns of numbers are read; columns that are not: {named_so}")
        return tuple(numeric)

    def _kinds(self, file: str) -> dict[str, Any]:
        """Read the header, and find the columns' types in the first lines."""
        with self._stream(file, pc.ConvertOptions(null_values=MISSING)) as stream:
            kinds = [(field.name, field.type) for field in stream.schema]
        names = [name for name, _ in kinds]
        if all(_is_number(name) for name in names):
            raise InputError(
                f"data.path={self.config.path!r}: the first line of {file} is {_listed(names)}, no header; name the "
                "columns there"
            )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"data.path={self.config.path!r}: {file} has the column {twice[0]!r} twice; rename one")
        return dict(kinds)

    def _batches(self, file: str, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Read some columns: labels as text, all others as float64."""
        kinds = {name: pa.string() if name == self.config.label else pa.float64() for name in names}
        options = pc.ConvertOptions(
            column_types=kinds, include_columns=names, null_values=MISSING, strings_can_be_null=True
        )
        with self._stream(file, options) as stream:
            yield from stream

    @contextmanager
    def _stream(self, file: str, options: pc.ConvertOptions) -> Iterator[Any]:
        name = file.lower().removesuffix(".gz")
        parse = pc.ParseOptions(delimiter="\t" if name.endswith(".tsv") else ",")
        with self._faults(file, "a table of numbers", "mend the file"), self._open(file) as opened:
            source = pa.PythonFile(opened, "r")
            source = pa.CompressedInputStream(source, "gzip") if file.lower().endswith(".gz") else source
            yield pc.open_csv(source, pc.ReadOptions(block_size=BLOCK, use_threads=False), parse, options)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
