"""Rows as they are stored -> rows of one shape and dtype, and class ids; rows that cannot be used are recorded."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.discover import IMAGES
from flowpairs.pipeline.data.formats import Chunk
from flowpairs.pipeline.data.images import Unreadable, decode_image, header_shape
from flowpairs.pipeline.data.labels import class_ids, plain_labels
from flowpairs.pipeline.data.schema import FIRST, kept, layout, to_kept
from flowpairs.pipeline.data.spec import Bad, Batch, DataKind, DataSpec, Kept

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # `map`, or that of a pool of threads


@dataclass(frozen=True)
class Form:
    """What all rows of a data set have in common."""

    shape: tuple[int, ...]
    kind: DataKind
    dtype: Kept

    def other(self, found: "Form") -> str:
        """Say how a row differs."""
        if found.shape == self.shape:
            return f"a row of {found.dtype} among rows of {self.dtype}; bring all to one dtype"
        return f"a row of shape {list(found.shape)} among rows of {list(self.shape)}; bring all to one shape"


def form_of(spec: DataSpec) -> Form:
    """Return the form that was found when the data were checked."""
    return Form(spec.shape, spec.kind, spec.dtype)


def outline(data: bytes) -> Shaped[np.ndarray, "c h w"]:
    """Stand in for an encoded image by an array of its shape that takes no memory; its pixels are not decoded."""
    return np.broadcast_to(np.uint8(0), header_shape(data))


def uniform_rows(
    chunk: Chunk,
    form: Form | None,
    where: str,
    decode: Callable[[bytes], np.ndarray] = decode_image,
    each: Each = map,
) -> tuple[np.ndarray | list[np.ndarray | None], Form | None, dict[int, str]]:
    """Bring the rows of a chunk to the form of a data set.

    Args:
        chunk: rows as they are stored.
        form: form of the data set; None: that of the first row that can be used.
        where: head of error sentences.
        decode: decoder of encoded images.
        each: how rows are decoded.

    Returns:
        All rows, as one array where they are stored as one; the form; and why rows cannot be used, by their number in
        the chunk.

    Raises:
        InputError: stored in a shape or dtype that no data have.
    """
    reasons = {} if chunk.missing is None else dict.fromkeys(np.flatnonzero(chunk.missing).tolist(), "null")
    if isinstance(chunk.x, np.ndarray):
        found = Form(*layout(chunk.x.shape[1:], chunk.x.dtype, where), kept(chunk.x.dtype))
        form = form or found
        if found != form:
            return chunk.x, form, dict.fromkeys(range(len(chunk)), form.other(found)) | reasons
        rows, finite = to_kept(chunk.x, where)
        return rows, form, dict.fromkeys(np.flatnonzero(~finite).tolist(), f"NaN or Inf as {form.dtype}") | reasons
    decoded: list[np.ndarray | None] = []
    for number, row in enumerate(each(partial(_read_row, decode=decode), chunk.x)):
        decoded.append(None)
        if isinstance(row, Unreadable):
            reasons.setdefault(number, str(row))
            continue
        found = Form(row.shape, "vector" if row.ndim == 1 else "image", kept(row.dtype))
        form = form or found
        if found == form:
            decoded[-1] = row
        else:
            reasons.setdefault(number, form.other(found))
    return decoded, form, reasons


def to_batch(chunk: Chunk, config: DataConfig, spec: DataSpec, bad: list[Bad], each: Each = map) -> Batch:
    """Convert a chunk to uniform rows with their class ids and columns.

    Args:
        chunk: rows as they are stored.
        config: `data:` of the configuration.
        spec: what `check_data` found.
        bad: takes the rows that cannot be used, which the batch leaves out.
        each: how encoded images are decoded.

    Raises:
        InputError: what concerns more than single rows, such as labels that are no classes.
    """
    rows, _, reasons = uniform_rows(chunk, form_of(spec), where_of(config, spec.columns), each=each)
    labels = None
    if chunk.label is not None:
        labels, reasons = checked_labels(chunk, config, reasons)
    reasons = checked_columns(chunk, config, reasons)
    keep = np.ones(len(chunk), bool)
    keep[list(reasons)] = False
    bad += bad_rows(chunk, reasons)
    if not keep.any():
        x = np.empty((0, *spec.shape), spec.dtype)
    elif isinstance(rows, np.ndarray):
        x = rows if keep.all() else rows[keep]
    else:
        x = np.stack([row for row, usable in zip(rows, keep, strict=True) if usable and row is not None])
    batch = {"x": x, **{key: column[keep] for key, column in chunk.columns.items()}}
    if labels is not None:
        batch["label"] = class_ids(labels[keep], spec, f"data.label={config.label!r}")
    return batch


def bad_rows(chunk: Chunk, reasons: dict[int, str]) -> list[Bad]:
    """Name the rows of a chunk that cannot be used."""
    return [
        Bad(*chunk.origin(number), why, "" if chunk.names is None else chunk.names[number])
        for number, why in sorted(reasons.items())
    ]


def checked_labels(chunk: Chunk, config: DataConfig, reasons: dict[int, str]) -> tuple[np.ndarray, dict[int, str]]:
    """Bring labels to int64 or text, and record the rows without one."""
    labels, missing = plain_labels(chunk.label, len(chunk), f"data.label={config.label!r}")
    return labels, dict.fromkeys(np.flatnonzero(missing).tolist(), "no label") | reasons


def checked_columns(chunk: Chunk, config: DataConfig, reasons: dict[int, str]) -> dict[int, str]:
    """Record the rows whose weight or time point is missing."""
    for key, column in chunk.columns.items():
        without = np.flatnonzero(~np.isfinite(column)).tolist()
        reasons = dict.fromkeys(without, f"NaN, Inf or null in data.{key}={config.columns()[key]!r}") | reasons
    return reasons


def where_of(config: DataConfig, columns: tuple[str, ...]) -> str:
    """Name the data in a sentence."""
    name = ",".join(columns)
    return f"data.column={name!r}" if name else f"data.path={config.path!r}"


def refusal(bad: list[Bad], config: DataConfig) -> InputError:
    """Make the error that counts rows that cannot be used, names the first and says what to do."""
    by_reason: dict[str, list[Bad]] = {}
    for one in bad:
        by_reason.setdefault(one.reason, []).append(one)
    told = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    said = "; ".join(f"{_named(some)}: {reason}" for reason, some in told[:FIRST])
    more = f"; and {len(told) - FIRST:,} other reasons" if len(told) > FIRST else ""
    rows = "1 row" if len(bad) == 1 else f"{len(bad):,} rows"
    return InputError(
        f"data.path={config.path!r}: {rows} cannot be used: {said}{more}. Mend them, or leave them out with "
        "data.on_bad=skip"
    )


def _named(some: list[Bad]) -> str:
    if all(PurePosixPath(one.file).suffix.lower() in (*IMAGES, ".npy") and one.row == 0 for one in some):
        names = [one.file for one in some[:FIRST]]
    else:
        names = [f"{one.file} row {one.row}{one.name and f' ({one.name})'}" for one in some[:FIRST]]
    count = f"{len(some):,}: " if len(some) > 1 else ""
    return f"{count}{', '.join(names)}{', ...' if len(some) > FIRST else ''}"


def _read_row(item: Any, decode: Callable[[bytes], np.ndarray]) -> np.ndarray | Unreadable:
    """Bring one row to the model's shape in the dtype in which it is kept."""
    try:
        if isinstance(item, bytes):
            return decode(item)
        if isinstance(item, Unreadable):
            return item
        rows, finite = to_kept(item[None], "")
        return rows[0] if finite.all() else Unreadable(f"NaN or Inf as {rows.dtype}")
    except Unreadable as error:
        return error
    except InputError as error:  # of `layout`
        return Unreadable(str(error).removeprefix(": "))
