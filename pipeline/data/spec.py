"""What is known of a data set before it is read, the pieces in which it is read, and the data set itself."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Shaped

DataKind = Literal["image", "vector"]
Kept = Literal["uint8", "float16", "float32"]
Format = Literal[
    "digits", "npz", "npy", "tensors", "parquet", "arrow", "tars", "csv", "h5ad", "folder", "arrays", "rows"
]

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
    per_class: tuple[int, int] | None = field(default=None, compare=False)  # fewest and most rows of a class, if known
    extent: tuple[float, float] | None = field(default=None, compare=False)  # least and greatest float that was seen


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
