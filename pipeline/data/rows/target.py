"""A data set whose rows are read by id."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.data.spec import DataKind


@dataclass(frozen=True)
class Target:
    """A data set: its rows, read by id, and in memory one or a few numbers a datum.

    Attributes:
        rows: the data, without mirror images.
        labels: class ids in [0, num_classes), where there are labels.
        num_classes: number of classes; 0: no labels.
        fingerprint: hash over shape, dtype, rows and labels; see `flowpairs.pipeline.data.rows.row_set`.
        weights: how much each datum counts, not negative and not all 0; None: equal weights.
        times: time points.
        growth: rates at which data multiply over a unit of time, above 0.
        class_names: names of the classes by their ids, where the data have some.
        kind: image or vector.
        left_out: number of rows that could not be read and were skipped.
        directory: the row set that it was opened from; None where it is in memory.
    """

    rows: Rows
    labels: Int64[np.ndarray, " n"] | None
    num_classes: int
    fingerprint: str
    weights: Float64[np.ndarray, " n"] | None = None
    times: Float64[np.ndarray, " n"] | None = None
    growth: Float64[np.ndarray, " n"] | None = None
    class_names: tuple[str, ...] = ()
    kind: DataKind = "image"
    left_out: int = 0
    directory: AnyPath | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self) -> dict[str, np.ndarray]:
        """Collect labels, weights, times and growth rates by their names in a row set."""
        named = {"label": self.labels, "weight": self.weights, "time": self.times, "growth": self.growth}
        return {name: values for name, values in named.items() if values is not None}

    @property
    def columns_fingerprint(self) -> str | None:
        """The SHA-256, in hex, of weights, times and growth rates; None where there are none."""
        columns = [column for column in (self.weights, self.times, self.growth) if column is not None]
        if not columns:
            return None
        return hashlib.sha256(b"".join(np.ascontiguousarray(column, "<f8").tobytes() for column in columns)).hexdigest()
