"""Data sets read whole, as arrays in model space."""

from dataclasses import dataclass

import numpy as np

from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows.make import read_small
from flowpairs.pipeline.data.rows.target import Target


@dataclass(frozen=True)
class Whole:
    """A data set in memory."""

    x: np.ndarray
    labels: np.ndarray | None
    num_classes: int
    fingerprint: str
    weights: np.ndarray | None
    times: np.ndarray | None
    columns_fingerprint: str | None


def whole(target: Target) -> Whole:
    """All of a data set."""
    x = target.rows.read(np.arange(len(target)))
    columns = target.weights, target.times, target.columns_fingerprint
    return Whole(x, target.labels, target.num_classes, target.fingerprint, *columns)


def read_data(config: DataConfig, spec: DataSpec, *, by_ray: bool = True) -> Whole:
    """A data set, read as a coupling job reads a small one."""
    return whole(read_small(config, spec))
