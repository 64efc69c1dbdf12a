"""The data at both ends of a flow and, for a chain over time, at the time points between them."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from flowpairs.pipeline import data
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.config import CoupleConfig, DataConfig, load
from flowpairs.pipeline.config.data import DataSource
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.make import is_small, read_small, sample
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.store.format import Index, rows_directory
from flowpairs.training.config import EvaluateConfig
from flowpairs.training.pairs.reference import LIMIT, Reference, read_reference


@dataclass(frozen=True)
class TimePoint:
    """The data at one time point of a chain.

    Attributes:
        time: the time, in the units of the data's time column.
        t: the same time, scaled so that the chain of pairs runs from 0 to 1; a left-out point may lie outside.
        x: the data at this time.
        left_out: whether the point was left out of the pairs.
    """

    time: float
    t: float
    x: Float32[Tensor, "n *shape"]
    left_out: bool


@dataclass(frozen=True)
class Endpoints:
    """The data at both ends of a flow.

    Attributes:
        start: the data of the source; None if the flow starts from noise.
        end: the data that samples are compared with.
        points: the time points of a chain, in the order of time; empty for other pairs.
        named: which data `end` is, for the record: path, split if one is known, whether it was held out, and whether
            mirror images are among it.
    """

    start: Float32[Tensor, "n *shape"] | None
    end: Reference
    points: tuple[TimePoint, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)

    def starts(self, count: int, seed: int) -> Float32[Tensor, "count *shape"] | None:
        """Choose `count` data to start from, in a random order, repeated in new orders if there are fewer."""
        if self.start is None:
            return None
        size = len(self.start)
        rounds = range(-(-count // size))
        orders = [noise.permutation(seed, noise.Stream.STARTS, size, high=number) for number in rounds]
        return self.start[torch.from_numpy(np.concatenate(orders)[:count])]


def read_endpoints(directory: str, index: Index, config: EvaluateConfig) -> Endpoints:
    """Read the data at the ends of a flow that was trained on a pair store.

    The data of a chain, the left-out points with them, are the store's rows; where it has none, they are read again.

    Args:
        directory: the directory or URL of the store.
        index: the store's index, from `read_index`.
        config: the evaluation, which may name held-out data to use instead of the store's.

    Raises:
        InputError: the store is damaged, its data are gone or have changed, or the held-out data do not fit.
    """
    return replace(_endpoints(directory, index, config), named=_named(directory, index, config))


def _named(directory: str, index: Index, config: EvaluateConfig) -> dict[str, Any]:
    """Name the data that samples are compared with; see `Endpoints.named`."""
    if config.data is not None:
        return {"data": config.data, "split": config.split, "held_out": True, "mirrored": False}
    where = as_path(directory) / "config.yaml"
    own = load(CoupleConfig, where).data if where.is_file() else None
    split = None if own is None else own.split
    if None not in (split, config.split) and split != config.split:
        raise InputError(f"split={config.split!r}: the data of the pairs are of {split!r}; give data=, or that split")
    path, mirrored = (None, None) if own is None else (own.path, own.flips and index.method != "semidiscrete")
    return {"data": path, "split": split or config.split, "held_out": False, "mirrored": mirrored}


def _endpoints(directory: str, index: Index, config: EvaluateConfig) -> Endpoints:
    coupled = load(CoupleConfig, as_path(directory) / "config.yaml") if _needs_config(index, config) else None
    if index.times:
        assert coupled is not None
        if config.data is not None or config.source is not None:
            key = "data" if config.data is not None else "source"
            raise InputError(f"{key}={getattr(config, key)!r}: pairs of a chain are held to their own data; remove it")
        return _chain(directory, coupled, index)
    start = read_reference(directory, index, "source").x if index.two_sided else None
    if config.source is not None:
        if coupled is None or not isinstance(coupled.source, DataSource):
            raise InputError(f"source={config.source!r}: the flow starts from noise; remove it")
        where = f"source={config.source!r}"
        found = held_out(coupled.source.as_data(), config.source, index.shape, where)
        start = torch.from_numpy(found.rows.read(np.arange(min(LIMIT, len(found)))))
    if config.data is None:
        return Endpoints(start, read_reference(directory, index))
    assert coupled is not None
    target = held_out(coupled.data, config.data, index.shape, f"data={config.data!r}", config.split)
    labels = None if target.labels is None or not index.num_classes else torch.from_numpy(target.labels[:LIMIT])
    x = torch.from_numpy(target.rows.read(np.arange(min(LIMIT, len(target)))))
    return Endpoints(start, Reference(x, labels))


def _needs_config(index: Index, config: EvaluateConfig) -> bool:
    return bool(index.times) or config.data is not None or config.source is not None


def held_out(coupled: DataConfig, path: str, shape: tuple[int, ...], where: str, split: str | None = None) -> Target:
    """Read data that took no part in the coupling, in the way in which the coupled data were read.

    Args:
        coupled: the data configuration of the coupling.
        path: the path or URL of the held-out data.
        shape: the shape of one datum.
        where: the beginning of the error message, if the data are refused.
        split: the split to read, where files of several lie below the path.

    Raises:
        InputError: the data cannot be read, or have another shape.
    """
    plain = {
        "weight": None,
        "time": None,
        "leave_out": (),
        "fingerprint": None,
        "columns_fingerprint": None,
        "split": split,
    }
    config = coupled.model_copy(update=plain | {"path": path})
    try:
        spec = data.check_data(config)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'data.path={path!r}: ')}") from error
    if spec.shape != shape:
        raise InputError(f"{where}: data of shape {list(spec.shape)}; the pairs have {list(shape)}")
    return read_small(config, spec) if is_small(spec) else sample(config, spec, LIMIT)


def _chain_rows(directory: str, config: CoupleConfig) -> Target:
    """Open the rows of a chain, or read its data again."""
    where = rows_directory(as_path(directory))
    if not row_set.lost_files(where):
        return row_set.open_target(where)
    return read_small(config.data, data.check_data(config.data))


def _chain(directory: str, config: CoupleConfig, index: Index) -> Endpoints:
    """Read the data at every time point."""
    target = _chain_rows(directory, config)
    if target.fingerprint != index.data_fingerprint or target.columns_fingerprint != config.data.columns_fingerprint:
        raise InputError(f"data.path={config.data.path!r}: not the data of these pairs; mend the path in config.yaml")
    assert target.times is not None
    first, last, points = index.times[0], index.times[-1], []
    for time in sorted({*index.times, *config.data.leave_out}):
        there = torch.from_numpy(target.rows.read(np.flatnonzero(target.times == time)))
        points.append(TimePoint(time, (time - first) / (last - first), there, time not in index.times))
    at_end = np.flatnonzero(target.times == last)
    labels = None if target.labels is None else torch.from_numpy(target.labels[at_end])
    start = torch.from_numpy(target.rows.read(np.flatnonzero(target.times == first)))
    return Endpoints(start, Reference(torch.from_numpy(target.rows.read(at_end)), labels), tuple(points))
