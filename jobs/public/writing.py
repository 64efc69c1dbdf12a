"""`write`: a pair store of anybody's pairs, in parts that need not be written in one go or by one process."""

from typing import TYPE_CHECKING

import numpy as np

from flowpairs.arrays import as_rows
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.store.format import Index
from flowpairs.pipeline.store.given_pairs import missing_of, write_given

if TYPE_CHECKING:
    from flowpairs.arrays import Array


def write(
    directory: str | AnyPath,
    x0: "Array",
    x1: "Array",
    labels: "Array | None" = None,
    *,
    data_ids: "Array | None" = None,
    part: int = 0,
    parts: int = 1,
) -> Index | None:
    """Write pairs that you made, or one part of them, as a pair store to train on.

    A part that is there already is left alone, so a program that was stopped is run again; `missing_parts` says what is
    left to make. Several processes may write different parts of one store.

    Args:
        directory: the directory or URL of the store.
        x0: the source rows [k, ...]: vectors or images, float; uint8 images are scaled to [-1, 1].
        x1: the target rows [k, ...], with the same shape per row.
        labels: the class of every pair [k], whole numbers from 0; None: no labels.
        data_ids: the number of each datum of x1 [k], not negative, where one occurs in several pairs; None: each
            occurs once.
        part: the number of this part, from 0.
        parts: the number of parts of the store.

    Returns:
        The index of the store if it is complete now, else None.

    Raises:
        InputError: a ValueError that names the argument, the value and the remedy.
    """
    rows = {"x0": as_rows(x0, "x0"), "x1": as_rows(x1, "x1")}
    count, shape = len(rows["x1"]), rows["x1"].shape
    if rows["x0"].shape != shape or len(rows["x0"]) != count:
        raise InputError(
            f"x0: {len(rows['x0'])} rows of shape {list(rows['x0'].shape)}, and x1 has {count} of {list(shape)}; give "
            "one row of x0 for each of x1"
        )
    whole = {name: rows[name].read(np.arange(count)) for name in rows}
    ids, classes = _numbers(data_ids, "data_ids", count), _numbers(labels, "labels", count)
    return write_given(as_path(directory), whole["x0"], whole["x1"], classes, ids, part, parts)


def missing_parts(directory: str | AnyPath, parts: int) -> list[int]:
    """List the parts that `write` has not written yet.

    Args:
        directory: the directory or URL of the store, which need not exist yet.
        parts: the number of parts of the store.

    Raises:
        InputError: the store was begun with another number of parts, or another thing is in the directory.
    """
    return missing_of(as_path(directory), parts)


def _numbers(values: "Array | None", name: str, count: int) -> np.ndarray | None:
    """Convert labels or ids to int64 [count]."""
    if values is None:
        return None
    given = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if given.shape != (count,) or not np.issubdtype(given.dtype, np.integer) or given.min() < 0:
        raise InputError(
            f"{name}: shape {list(given.shape)} of {given.dtype}; give {count} whole numbers, 0 or more, one a pair"
        )
    return given.astype(np.int64)
