"""What is known of a data set before it is read, and the data set itself."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

DataKind = Literal["image", "vector"]


@dataclass(frozen=True)
class DataSpec:
    """What `check_data` found, without reading more than it had to."""

    rows: int | None  # None: a remote format that does not give it before it is read
    shape: tuple[int, ...]  # of one datum as the model sees it, channels first for images
    num_classes: int  # 0: no labels; a lower bound where the data are remote
    kind: DataKind
    files: int  # 0 for the embedded digits


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
