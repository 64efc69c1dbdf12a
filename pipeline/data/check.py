"""`check_data`: what can be wrong with a data set, found before any work and without Ray; and what there is.

Headers, footers and names are checked of all files. Contents are read in full where the files are local and small
together, of images the headers; else the first rows of some files. What that leaves is found by `read_piece`.
"""

import sys
from collections.abc import Iterator

import numpy as np

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.printing import print_line
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.discover import Location, locate
from flowpairs.pipeline.data.formats import Chunk, Reader, reader_of
from flowpairs.pipeline.data.labels import WHOLE, Classes, plain_labels
from flowpairs.pipeline.data.rows.given_set import check_set
from flowpairs.pipeline.data.spec import Bad, DataSpec, FilePart
from flowpairs.pipeline.data.uniform import (
    Form,
    bad_rows,
    checked_columns,
    checked_labels,
    outline,
    refusal,
    uniform_rows,
    where_of,
)

SMALL = 256 * 2**20  # bytes; files that are larger together are checked by their first rows
MOST = 4 * SMALL  # bytes of rows that are checked; compressed files may hold any number
BATCH = 32 * 2**20  # bytes
SAMPLE_ROWS, SAMPLE_FILES, SAMPLE_IMAGES = 256, 64, 1024
REMOTE_FILES = 8
THIN = 4  # a grey image of floats with a side shorter than this is most likely none


def check_data(config: DataConfig) -> DataSpec:
    """Check a data set without Ray, and find what is needed to read it.

    What is left out, and floats that are no images on [-1, 1], is said on stderr.

    Args:
        config: `data:` of a configuration. `flowpairs.pipeline.data.discover` says how its path chooses a format,
            `flowpairs.pipeline.data.schema` how an array's rank is read, `flowpairs.pipeline.data.labels` how classes
            are numbered, `flowpairs.pipeline.data.images` which images are read.

    Raises:
        InputError: nothing at the path, unknown format, several formats or splits, a missing column or field (with
            those there are), rows that cannot be used (with their count and the first, unless data.on_bad is skip),
            labels that are no classes, no rows, flips of vectors.
    """
    if (given := check_set(config)) is not None:
        return given
    try:
        return _check(config, locate(config, quiet=False))
    except FileNotFoundError as error:
        raise InputError(
            f"data.path={config.path!r}: changed while it was checked ({error}); run again when nothing writes to it"
        ) from error


def _check(config: DataConfig, location: Location) -> DataSpec:
    """Check the files that were found."""
    reader = reader_of(config, location.format, location.site)
    if config.columns() and not reader.has_columns:
        key, name = next(iter(config.columns().items()))
        raise InputError(
            f"data.{key}={name!r}: columns are of .npz, parquet and other tables, not of {location.format}; write one "
            "of these"
        )
    reader.columns = reader.find_columns(location.files)
    whole = location.site.local and sum(location.sizes) <= SMALL
    survey = _Survey(config, reader)
    for chunk in _chunks(location, reader, survey, whole):
        survey.add(chunk)
        if survey.bytes > MOST:
            whole = False
            break
    bad = survey.bad
    if bad and (config.on_bad == "refuse" or survey.form is None):
        raise refusal(bad, config)
    form, where = survey.form, f"data.path={config.path!r}"
    counts = [survey.rows] if whole else reader.quick_count(location.files)
    rows = None if counts is None else sum(counts)
    if form is None or rows == 0:
        raise InputError(f"{where}: no rows; give data with at least one")
    if config.flips and form.kind == "vector":
        raise InputError(f"data.flips=true: rows of shape {list(form.shape)} are no images; leave data.flips out")
    if bad:
        print_line(f"{str(refusal(bad, config)).rpartition('. ')[0]}; left out (data.on_bad=skip)", sys.stderr)
    survey.warn(where_of(config, reader.columns))
    for note in reader.notes:
        print_line(f"{where}: {note}", sys.stderr)
    numbering = _classes(location, reader, survey, whole) if reader.labelled else (0, (), False, None)
    files = 0 if location.format == "digits" else len(location.files)
    return DataSpec(
        rows,
        form.shape,
        numbering[0],
        form.kind,
        files,
        form.dtype,
        numbering[1],
        numbering[2],
        reader.columns,
        location.format,
        numbering[3],
        (survey.low, survey.high) if survey.low <= survey.high else None,
    )


FILES = {"rows": "row"}  # formats that are named otherwise


def describe(config: DataConfig, spec: DataSpec) -> str:
    """Say in one line what is read: rows, shape, dtype, the range of floats, classes and their rows, files.

    Args:
        config: `data:` of a configuration.
        spec: result of `check_data`.
    """
    rows = "rows not yet counted" if spec.rows is None else f"{spec.rows:,} rows"
    some = ", ".join(spec.columns[:5]) + (", ..." if len(spec.columns) > 5 else "")
    column = f", {some}" if some else ""
    extent = "" if spec.extent is None else " from {:.3g} to {:.3g}".format(*spec.extent)
    said = f"{config.path}{column}: {rows}, {spec.kind}s {list(spec.shape)} of {spec.dtype}{extent}"
    if spec.num_classes:
        names = ", ".join(spec.class_names[:5]) + (", ..." if len(spec.class_names) > 5 else "")
        said += f", {spec.num_classes:,} classes{_of_rows(spec.per_class)}{names and f' ({names})'}"
    return (
        f"{said}, {spec.files:,} {FILES.get(spec.format, spec.format)} file{'s' * (spec.files != 1)}"
        if spec.files
        else said
    )


def _of_rows(per_class: tuple[int, int] | None) -> str:
    """Say how many rows the classes have."""
    if per_class is None:
        return ""
    fewest, most = per_class
    return f" of {fewest:,} rows each" if fewest == most else f" of {fewest:,} to {most:,} rows"


class _Survey:
    """What the rows seen so far have in common, and those that cannot be used."""

    def __init__(self, config: DataConfig, reader: Reader) -> None:
        self.config, self.reader = config, reader
        self.form: Form | None = None
        self.bad: list[Bad] = []
        self.rows = self.bytes = 0
        self.classes = Classes(f"data.label={config.label!r}", by_name=reader.rows_in_files)
        self.low, self.high = np.inf, -np.inf
        self.stored: tuple[int, ...] = ()

    def add(self, chunk: Chunk) -> None:
        """Check rows."""
        where = where_of(self.config, self.reader.columns)
        rows, self.form, reasons = uniform_rows(chunk, self.form, where, outline)
        if chunk.label is not None:
            labels, reasons = checked_labels(chunk, self.config, reasons)
            self.classes.add(np.delete(labels, list(reasons)))
        reasons = checked_columns(chunk, self.config, reasons)
        self.bad += bad_rows(chunk, reasons)
        self.rows += len(chunk)
        self.bytes += chunk.x.nbytes if isinstance(chunk.x, np.ndarray) else sum(map(_size, chunk.x))
        if self.form is None or self.form.dtype == "uint8":
            return
        first = chunk.x[0] if len(chunk) else None
        self.stored = self.stored or (first.shape if isinstance(first, np.ndarray) else ())
        for block in [rows] if isinstance(rows, np.ndarray) else rows:
            if block is not None and block.size and not reasons:
                self.low, self.high = min(self.low, float(block.min())), max(self.high, float(block.max()))

    def per_class(self, classes: int) -> tuple[int, int] | None:
        """Count the rows of the smallest and of the largest class."""
        counts = self.classes.seen.values()
        return (min(counts) if len(counts) >= classes else 0, max(counts)) if counts else None

    def warn(self, where: str) -> None:
        """Say what is read in a way that may not be meant."""
        if self.form is None or self.form.kind != "image":
            return
        channels, height, width = self.form.shape
        if len(self.stored) == 2 and (height != width or height < THIN):
            print_line(
                f"{where}: rows of shape {list(self.stored)} are read as grey images of {height} x {width}; if they "
                f"are none, store vectors of {height * width}",
                sys.stderr,
            )
        if channels in (1, 3, 4) and 0 <= self.low <= self.high and 0.5 < self.high <= 255:
            print_line(
                f"{where}: images of floats from {self.low:g} to {self.high:g} are taken as they are, while noise is "
                f"around 0; scale them to [-1, 1]{', or store uint8' if self.high > 1 else ''}",
                sys.stderr,
            )


def _chunks(location: Location, reader: Reader, survey: _Survey, whole: bool) -> Iterator[Chunk]:
    """Read the rows that are checked: the first by itself, for its size, then batches."""
    files = list(location.files)
    if not whole:
        most = SAMPLE_IMAGES if reader.rows_in_files else SAMPLE_FILES
        if not location.site.local:
            most = 1 if reader.quick_count(files[:1]) is None or reader.rows_in_files else REMOTE_FILES
        files = [files[number] for number in sorted({len(files) * k // most for k in range(most)})]
    everything = np.iinfo(np.int64).max
    rows_each = everything if whole else SAMPLE_ROWS if location.site.local else 1 if len(files) == 1 else SAMPLE_ROWS
    first = next(reader.parts([FilePart(files[0], 0, 1)], 1), None)
    if first is not None:
        yield first
    form = survey.form
    size = 2**16 if form is None else int(np.prod(form.shape)) * np.dtype(form.dtype).itemsize
    rows = max(1, min(4096, BATCH // size))
    begin = 0 if first is None else 1
    if begin < rows_each:
        parts = [FilePart(file, begin if file == files[0] else 0, rows_each) for file in files]
        yield from reader.parts(parts, rows)


def _size(item: bytes | np.ndarray | Exception) -> int:
    return len(item) if isinstance(item, bytes) else item.nbytes if isinstance(item, np.ndarray) else 0


def _classes(
    location: Location, reader: Reader, survey: _Survey, whole: bool
) -> tuple[int, tuple[str, ...], bool, tuple[int, int] | None]:
    """Number the classes, by all labels where these can be read without the data, and count their rows there."""
    classes = survey.classes
    names = reader.names_of_classes(location.files[0])
    if names is not None:
        classes.refuse_beyond(len(names))
        return len(names), names, False, survey.per_class(len(names)) if whole else None
    text = any(isinstance(value, str) and not WHOLE.fullmatch(value) for value in classes.seen)
    if not whole and reader.whole_labels and (location.site.local or reader.rows_in_files or text):
        classes.seen.clear()
        for file in location.files:
            for raw, count in reader.labels(file):
                values, missing = plain_labels(raw, count, classes.where)
                classes.add(values[~missing])
        whole = True
    count, names, numbered = classes.numbering(complete=whole)
    return count, names, numbered, survey.per_class(count) if whole else None
