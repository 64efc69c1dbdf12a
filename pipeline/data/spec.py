"""What is known of a data set before it is read, the pieces in which it is read, and the data set itself."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped

DataKind = Literal["image", "vector"]
Kept = Literal["uint8", "float16", "float32"]
Format = Literal["digits", "npz", "npy", "tensors", "parquet", "arrow", "tars", "csv", "h5ad", "folder", "arrays"]

# Rows that belong together: x [b, *shape], label int64 [b], weight and time float64 [b]; the last three if asked for.
Batch = dict[str, Shaped[np.ndarray, "b ..."]]


@dataclass(frozen=True)
class DataSpec:
    """What `check_data` found, without reading more than it had to."""

    rows: int | None  # None: a format that does not give it before it is read; `count_rows` finds it
    shape: tuple[int, ...]  # of one datum as the model sees it, channels first for images
    num_classes: int  # 0: no labels; a lower bound where not all labels have been read
    kind: DataKind
    files: int  # 0 for the embedded digits
    dtype: Kept = "float32"  # in which rows are kept; uint8 is scaled to x / 127.5 - 1 where it is used
    class_names: tuple[str, ...] = ()  # in the order of the class ids; () where labels are bare integers
    numbered: bool = False  # whether a label is looked up in `class_names`; else it is the class id itself
    columns: tuple[str, ...] = ()  # the arrays, columns or fields that hold the data; () where files do
    format: Format = "digits"


@dataclass(frozen=True)
class FilePart:
    """Consecutive rows of one file."""

    path: str  # as the file's filesystem writes it
    start: int
    stop: int


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a data set: all that one call of `read_piece` reads."""

    files: tuple[FilePart, ...]

    @property
    def rows(self) -> int:
        """Count the rows, unreadable ones included."""
        return sum(part.stop - part.start for part in self.files)


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used."""

    file: str
    row: int  # its number in the file
    reason: str
    name: str = ""  # its name there, as the key of a tar's sample


@dataclass(frozen=True)
class Target:
    """A data set in model space: uint8 images scaled to [-1, 1], floats unchanged."""

    x: Float32[np.ndarray, "n *shape"]  # C-contiguous
    labels: Int64[np.ndarray, " n"] | None  # class ids in [0, num_classes)
    num_classes: int
    fingerprint: str  # sha256 of shape, x and labels
    weights: Float64[np.ndarray, " n"] | None = None  # not negative, not all 0; None: equal weights
    times: Float64[np.ndarray, " n"] | None = None  # time points

    @property
    def columns_fingerprint(self) -> str | None:
        """The sha256, in hex, of weights and times; None where there are neither."""
        columns = [column for column in (self.weights, self.times) if column is not None]
        if not columns:
            return None
        return hashlib.sha256(b"".join(np.ascontiguousarray(column, "<f8").tobytes() for column in columns)).hexdigest()


def data_fingerprint(x: Float32[np.ndarray, "n *shape"], labels: Int64[np.ndarray, " n"] | None) -> str:
    """Compute the sha256, in hex, of a data set's shape, its little-endian bytes in C order and its labels."""
    digest = hashlib.sha256(repr(x.shape).encode())
    digest.update(np.ascontiguousarray(x, "<f4").data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels, "<i8").data)
    return digest.hexdigest()
