"""The rules of every format: how an array's rank is read, finite numbers, class ids, equal shapes.

One datum as it is stored        dtype    the model sees
[d]                              number   vector [d]; uint8 is refused, for it is most likely a flattened image
[H, W]                           uint8/float  grey image [1, H, W]
[H, W, C] or [C, H, W]           uint8/float  image [C, H, W]; C is the end that has 1, 3 or 4, refused where both have
[C, H, W], neither end 1, 3, 4   float    image-like latents [C, H, W]

uint8 images are scaled to x / 127.5 - 1. Floats are taken as they are. Integers other than uint8 make only vectors.
"""

import math

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.spec import DataKind, DataSpec

CHANNELS = (1, 3, 4)


def layout(shape: tuple[int, ...], dtype: np.dtype, where: str) -> tuple[tuple[int, ...], DataKind]:
    """Find the shape and kind in which the model sees one datum of this stored shape and dtype.

    Args:
        shape: stored shape of one datum.
        dtype: stored dtype.
        where: head of the error sentence.

    Raises:
        InputError: not a number type, a rank that is not a vector's or an image's, or ambiguous channels.
    """
    if dtype.kind not in "iuf":
        raise InputError(f"{where}: dtype {dtype} is not a number; store uint8 images or floats")
    if math.prod(shape) == 0:
        raise InputError(f"{where}: a datum of shape {list(shape)} is empty; give data with at least one number")
    if len(shape) == 1:
        if dtype == np.uint8:
            raise InputError(f"{where}: uint8 of shape {list(shape)} a row; store images [H, W], or vectors as floats")
        return shape, "vector"
    if len(shape) not in (2, 3):
        raise InputError(
            f"{where}: shape {list(shape)} a row is neither a vector [d] nor an image [H, W], [H, W, C] or [C, H, W]; "
            "reshape it"
        )
    if dtype.kind in "iu" and dtype != np.uint8:
        raise InputError(f"{where}: images of dtype {dtype}; store them as uint8 or floats")
    if len(shape) == 2:
        return (1, *shape), "image"
    first, last = shape[0] in CHANNELS, shape[2] in CHANNELS
    if first and last:
        raise InputError(f"{where}: shape {list(shape)} has channels at either end; pad or crop the other one")
    if not first and not last and dtype == np.uint8:
        raise InputError(f"{where}: shape {list(shape)} has channels at neither end; images have 1, 3 or 4 of them")
    return (shape[2], *shape[:2]) if last else shape, "image"


def to_uniform(batch: Shaped[np.ndarray, "n *stored"], where: str) -> Shaped[np.ndarray, "n *shape"]:
    """Convert stored rows to the model's shape, as uint8 (not yet scaled) or finite float32.

    Raises:
        InputError: as `layout`; NaN or Inf, also those that only float32 cannot hold.
    """
    shape, _ = layout(batch.shape[1:], batch.dtype, where)
    if batch.ndim == 4 and batch.shape[1:] != shape:
        batch = np.moveaxis(batch, 3, 1)
    batch = batch.reshape(len(batch), *shape)
    if batch.dtype == np.uint8:
        return np.ascontiguousarray(batch)
    with np.errstate(over="ignore"):
        batch = np.ascontiguousarray(batch, np.float32)
    if not np.isfinite(batch).all():
        raise InputError(f"{where}: NaN or Inf in the data (as float32); remove those rows")
    return batch


def stack(
    rows: list[Shaped[np.ndarray, "..."]], shape: tuple[int, ...], names: list[str]
) -> Shaped[np.ndarray, "n *shape"]:
    """Stack uniform rows that were decoded one by one; `names` are the heads of the error sentences.

    Raises:
        InputError: a row of another shape.
    """
    for row, name in zip(rows, names, strict=True):
        if row.shape != shape:
            raise _other_shape(name, row.shape, shape)
    return np.stack(rows)


def scale_into(out: Float32[np.ndarray, "n *shape"], batch: Shaped[np.ndarray, "n *shape"]) -> None:
    """Write uniform rows into `out` in model space."""
    if batch.dtype == np.uint8:
        np.divide(batch, np.float32(127.5), out=out)
        out -= 1
    else:
        out[...] = batch


def class_ids(labels: Shaped[np.ndarray, "..."], rows: int, where: str) -> Int64[np.ndarray, " n"]:
    """Convert labels to int64.

    Raises:
        InputError: not one integer per row, or negative.
    """
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: labels of dtype {labels.dtype}; store class ids 0, 1, 2, ... as integers")
    if labels.shape != (rows,):
        raise InputError(f"{where}: labels of shape {list(labels.shape)} for {rows} rows; give one class id a row")
    if len(labels) and labels.min() < 0:
        raise InputError(f"{where}: label {labels.min()} is negative; store class ids 0, 1, 2, ...")
    return labels.astype(np.int64)


def measures(column: Shaped[np.ndarray, "..."], rows: int, where: str) -> Float64[np.ndarray, " n"]:
    """Convert a column of one number per datum to float64: weights or time points.

    Raises:
        InputError: not one number per row, NaN or Inf.
    """
    if column.dtype.kind not in "iuf" or column.shape != (rows,):
        raise InputError(f"{where}: {list(column.shape)} of {column.dtype} for {rows} rows; give one number a row")
    values = column.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{where}: NaN or Inf; fill or remove those rows")
    return values


class Tally:
    """The shape and kind that all rows seen so far have; the first row that differs is refused."""

    def __init__(self) -> None:
        self.rows = 0
        self.num_classes = 0
        self._seen: tuple[tuple[int, ...], DataKind] | None = None

    def add(self, shape: tuple[int, ...], kind: DataKind, where: str, rows: int = 1) -> None:
        """Count rows of one shape."""
        self._seen = self._seen or (shape, kind)
        if self._seen != (shape, kind):
            raise _other_shape(where, shape, self._seen[0])
        self.rows += rows

    def add_labels(self, labels: Int64[np.ndarray, " n"]) -> None:
        """Record the largest class id."""
        self.num_classes = max(self.num_classes, int(labels.max(initial=-1)) + 1)

    def spec(self, files: int, where: str, rows: int | None = -1) -> DataSpec:
        """Build the specification; `rows` is given where the number of rows is known better than by counting.

        Raises:
            InputError: nothing was counted.
        """
        if self._seen is None or self.rows == 0:
            raise InputError(f"{where}: no rows; give data with at least one")
        shape, kind = self._seen
        return DataSpec(self.rows if rows == -1 else rows, shape, self.num_classes, kind, files)


def _other_shape(where: str, shape: tuple[int, ...], others: tuple[int, ...]) -> InputError:
    return InputError(f"{where}: a row of shape {list(shape)} among rows of {list(others)}; bring all to one shape")
