"""Parts of a row set while it is made: each is finished when its sidecar is there, and an interrupted job keeps it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np

from flowpairs.pipeline.base.atomic import atomic_open, write_atomically
from flowpairs.pipeline.base.npy import plain_array
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.row_set import Part
from flowpairs.pipeline.data.spec import Bad


@dataclass(frozen=True)
class FinishedPart:
    """A part on disk.

    Attributes:
        number: its number.
        part: its file; None where no row of the piece could be read.
        columns: names of its columns.
        bad: rows that could not be read.
    """

    number: int
    part: Part | None
    columns: tuple[str, ...] = ()
    bad: tuple[Bad, ...] = ()


def find_part(directory: AnyPath, number: int, key: str) -> FinishedPart | None:
    """Find a part that an earlier run finished from the same input; None where it has to be made.

    Args:
        directory: the row set.
        number: number of the part.
        key: hash of what the part is made from.
    """
    try:
        tree = json.loads(_sidecar(directory, number).read_bytes())
        part = None if tree["part"] is None else Part(**tree["part"])
        there = part is None or (directory / part.name).stat().st_size == part.bytes
        if tree["key"] != key or not there:
            return None
        return FinishedPart(number, part, tuple(tree["columns"]), tuple(Bad(**each) for each in tree["bad"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_rows(
    directory: AnyPath,
    number: int,
    key: str,
    values: np.ndarray,
    columns: Mapping[str, np.ndarray],
    bad: Sequence[Bad] = (),
) -> FinishedPart:
    """Write a part with its columns, and last its sidecar."""
    part = row_set.write_part(directory / row_set.part_name(number), values) if len(values) else None
    if columns and part is not None:
        with atomic_open(_columns(directory, number)) as file:
            np.savez(file, allow_pickle=False, **columns)
    done = FinishedPart(number, part, tuple(columns), tuple(bad))
    tree: dict[str, Any] = {"key": key, "part": None if part is None else asdict(part), "columns": list(columns)}
    tree["bad"] = [asdict(each) for each in bad]
    write_atomically(_sidecar(directory, number), json.dumps(tree).encode())
    return done


def merge_columns(directory: AnyPath, done: Sequence[FinishedPart]) -> dict[str, np.ndarray]:
    """Join the columns of all parts, in order."""
    joined: dict[str, list[np.ndarray]] = {}
    for each in done:
        if not each.columns or each.part is None:
            continue
        with np.load(BytesIO(_columns(directory, each.number).read_bytes()), allow_pickle=False) as arrays:
            for name in each.columns:
                joined.setdefault(name, []).append(plain_array(arrays[name]))
    return {name: np.concatenate(values) for name, values in joined.items()}


def remove_sidecars(directory: AnyPath, done: Sequence[FinishedPart]) -> None:
    """Remove what only a resumed job needs, once the manifest is there."""
    for each in done:
        _sidecar(directory, each.number).unlink(missing_ok=True)
        _columns(directory, each.number).unlink(missing_ok=True)


def _sidecar(directory: AnyPath, number: int) -> Any:
    return (directory / row_set.part_name(number)).with_suffix(".json")


def _columns(directory: AnyPath, number: int) -> Any:
    return (directory / row_set.part_name(number)).with_suffix(".npz")
