"""The rules of every format: how an array's rank is read, in which dtype rows are kept, finite numbers.

One datum as it is stored        dtype    the model sees
[d]                              number   vector [d]; uint8 is refused, for it is most likely a flattened image
[H, W]                           uint8/float  grey image [1, H, W]
[H, W, C] or [C, H, W]           uint8/float  image [C, H, W]; C is the end that has 1, 3 or 4, refused where both have
[C, H, W], neither end 1, 3, 4   float    image-like latents [C, H, W]

uint8 images are kept as such and scaled to x / 127.5 - 1 where they are used. float16 is kept, other floats and the
integers of vectors become float32. Integers other than uint8 make only vectors.
"""

import math

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.spec import DataKind, Kept

CHANNELS = (1, 3, 4)
FIRST = 5  # rows or files that a sentence names


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


def to_kept(batch: Shaped[np.ndarray, "n *stored"], where: str) -> tuple[Shaped[np.ndarray, "n *shape"], np.ndarray]:
    """Convert stored rows to the model's shape in the dtype in which rows are kept, and say which rows are finite.

    Args:
        batch: rows as they are stored.
        where: head of the error sentence.

    Returns:
        The rows in the dtype of `kept`, C-contiguous; and bool [n], False for rows with NaN or Inf, also those that
        only the kept dtype cannot hold.

    Raises:
        InputError: as `layout`.
    """
    shape, _ = layout(batch.shape[1:], batch.dtype, where)
    if batch.ndim == 4 and batch.shape[1:] != shape:
        batch = np.moveaxis(batch, 3, 1)
    batch = batch.reshape(len(batch), *shape)
    dtype = kept(batch.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.ascontiguousarray(batch, dtype)
    if dtype == "uint8":
        return rows, np.ones(len(rows), bool)
    return rows, np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)


def kept(dtype: np.dtype) -> Kept:
    """Choose the dtype in which rows of a stored dtype are kept: uint8 and float16 as they are, all others float32."""
    if dtype.kind == "u" and dtype.itemsize == 1:
        return "uint8"
    return "float16" if dtype.kind == "f" and dtype.itemsize == 2 else "float32"


def to_uniform(batch: Shaped[np.ndarray, "n *stored"], where: str) -> Shaped[np.ndarray, "n *shape"]:
    """Convert stored rows as `to_kept` does, all of which have to be finite.

    Raises:
        InputError: as `layout`; NaN or Inf.
    """
    rows, finite = to_kept(batch, where)
    if not finite.all():
        raise InputError(f"{where}: NaN or Inf in the data in {rows_named(~finite)}; remove those rows")
    return rows


def rows_named(chosen: np.ndarray) -> str:
    """Count the rows of a mask and name the first: "2 rows: 17, 160"."""
    found = np.flatnonzero(chosen)
    more = ", ..." if len(found) > FIRST else ""
    return f"{len(found):,} row{'s' * (len(found) != 1)}: {', '.join(map(str, found[:FIRST]))}{more}"


def scale_into(out: Float32[np.ndarray, "n *shape"], batch: Shaped[np.ndarray, "n *shape"]) -> None:
    """Write uniform rows into `out` in model space."""
    if batch.dtype == np.uint8:
        np.divide(batch, np.float32(127.5), out=out)
        out -= 1
    else:
        out[...] = batch


def measures(column: Shaped[np.ndarray, "..."], rows: int, where: str) -> Float64[np.ndarray, " n"]:
    """Convert a column of one number per datum to float64: weights or time points; what is missing becomes NaN.

    Raises:
        InputError: not one number per row.
    """
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.dtype.kind not in "iuf" or column.shape != (rows,):
        raise InputError(f"{where}: {list(column.shape)} of {column.dtype} for {rows} rows; give one number a row")
    return column.astype(np.float64)
