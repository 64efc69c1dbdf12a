"""The file blocks.parquet: one row per block, made from the sidecars' reports."""

from collections.abc import Iterable
from typing import Any

from flowpairs.pipeline.base.atomic import atomic_open
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, refuse_special


def write_blocks(directory: AnyPath, reports: Iterable[dict[str, Any]]) -> None:
    """Write one row per block, in block order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = sorted(reports, key=lambda row: row["block"])
    with atomic_open(directory / "blocks.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)


def read_blocks(directory: AnyPath) -> list[dict[str, Any]]:
    """Read the rows of blocks.parquet.

    Raises:
        InputError: it is missing or damaged.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    path = directory / "blocks.parquet"
    try:
        refuse_special(path)
        with path.open("rb") as file:
            return pq.read_table(file).to_pylist()
    except (ArrowException, OSError, UnicodeError) as error:  # of names that are no text
        remedy = "remove it and index.json, then couple again to have it written anew"
        raise InputError(f"{path}: cannot be read as parquet ({error}); {remedy}") from error
