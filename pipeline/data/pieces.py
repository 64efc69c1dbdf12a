"""Pieces: a data set as runs of consecutive rows, each of which one task reads by itself.

Rows are ordered by file path, then by their order in the file, whatever the pieces.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.discover import locate, site_of
from flowpairs.pipeline.data.formats import Reader, reader_of
from flowpairs.pipeline.data.spec import Bad, Batch, DataSpec, FilePart, Piece
from flowpairs.pipeline.data.uniform import Each, to_batch

BATCH_BYTES = 32 * 2**20
MOST_ROWS = 4096  # of a batch


def files_of(config: DataConfig) -> tuple[str, ...]:
    """List the files of a data set in the order of its rows.

    Raises:
        InputError: as `check_data` about the path.
    """
    return locate(config).files


def count_rows(config: DataConfig, spec: DataSpec, file: str) -> int:
    """Count a file's rows, without decoding where its header or footer says it.

    Args:
        config: `data:` of a configuration.
        spec: result of `check_data`.
        file: one of `files_of`.

    Raises:
        InputError: the file cannot be read.
    """
    return _reader(config, spec).count(file)


def list_pieces(
    config: DataConfig, spec: DataSpec, counts: Sequence[int] | None, rows_per_piece: int
) -> list[list[Piece]]:
    """Divide a data set into pieces of consecutive rows.

    Args:
        config: `data:` of a configuration.
        spec: result of `check_data`.
        counts: rows of each of `files_of`, from `count_rows`; None: they are counted here.
        rows_per_piece: rows of every piece but the last.

    Returns:
        Groups of pieces, in the order of the rows. The pieces of a group are read one after the other, by one process;
        groups are independent.

    Raises:
        InputError: the files are others than those counted.
    """
    files, reader = files_of(config), _reader(config, spec)
    if counts is None:
        counts = reader.quick_count(files) or [reader.count(file) for file in files]
    if len(counts) != len(files):
        raise InputError(
            f"data.path={config.path!r}: {len(files):,} files instead of {len(counts):,}; run again when nothing "
            "writes to it"
        )
    pieces: list[Piece] = []
    parts: list[FilePart] = []
    held = 0
    for file, count in zip(files, counts, strict=True):
        at = 0
        while at < count:
            taken = min(count - at, rows_per_piece - held)
            parts.append(FilePart(file, at, at + taken))
            at, held = at + taken, held + taken
            if held == rows_per_piece:
                pieces.append(Piece(tuple(parts)))
                parts, held = [], 0
    if parts:
        pieces.append(Piece(tuple(parts)))
    return [pieces] if reader.sequential(files) else [[piece] for piece in pieces]


def read_piece(config: DataConfig, spec: DataSpec, piece: Piece, bad: list[Bad], threads: int = 1) -> Iterator[Batch]:
    """Read the rows of a piece in order, in batches of about 32 MB at most.

    Args:
        config: `data:` of a configuration.
        spec: result of `check_data`.
        piece: one of `list_pieces`.
        bad: takes the rows that cannot be used, which the batches leave out; `refusal` makes them an error.
        threads: threads that decode images.

    Yields:
        x [b, *spec.shape] in spec.dtype, label int64 [b] where there are labels, weight and time float64 [b] where
        `data` names their columns.

    Raises:
        InputError: data that changed since they were checked, or that this process cannot reach.
    """
    reader, seen = _reader(config, spec), 0
    size = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    rows = max(1, min(MOST_ROWS, BATCH_BYTES // size))
    try:
        with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
            each: Each = map if pool is None else pool.map
            for chunk in reader.parts(piece.files, rows):
                seen += len(chunk)
                batch = to_batch(chunk, config, spec, bad, each)
                if len(batch["x"]):
                    yield batch
    except FileNotFoundError as error:
        raise InputError(
            f"data.path={config.path!r}: this machine cannot see a file of it ({error}); put the data on storage that "
            "every node mounts, or give a URL, and let nothing write to it"
        ) from error
    if seen != piece.rows:
        first = piece.files[0]
        raise InputError(
            f"data.path={config.path!r}: {seen:,} rows instead of {piece.rows:,} from row {first.start} of "
            f"{first.path} on; run again when nothing writes to it"
        )


def _reader(config: DataConfig, spec: DataSpec) -> Reader:
    return reader_of(config, spec.format, site_of(config.path), spec.columns)
