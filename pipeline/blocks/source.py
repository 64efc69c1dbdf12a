"""Two-sided problems, where x0 is data too: another data set, or in a chain over time the data one time point earlier.

Legs say which data are coupled: one leg that holds all of both sets, or in a chain one for each pair of successive time
points that are not left out. Each leg is a coupling problem of its own, and blocks take turns among the legs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from flowpairs.pipeline import data
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, DataConfig
from flowpairs.pipeline.config.data import DataSource
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.data.spec import DataKind

Span = tuple[float, float]


@dataclass(frozen=True)
class Leg:
    """Ids of the two sides that are coupled, mirror images included.

    Attributes:
        source: ids on the source side.
        target: ids on the target side.
        span: in a chain, the two time points, scaled so that the whole chain goes from 0 to 1.
    """

    source: Int64[np.ndarray, " s"]
    target: Int64[np.ndarray, " t"]
    span: Span | None = None


@dataclass(frozen=True)
class SourceData:
    """The data on the source side.

    Attributes:
        rows: data without mirror images, of the target's shape.
        flips: whether mirror images belong to the side.
        weights: weight of each datum in the marginal; None: equal weights.
        fingerprint: fingerprint of the data, as for any data set.
        columns_fingerprint: fingerprint of weights and times, as for any data set.
        legs: ids that are coupled.
        times: in a chain, the time points that take part, unscaled.
    """

    rows: Rows
    flips: bool
    weights: Float64[np.ndarray, " N"] | None
    fingerprint: str
    columns_fingerprint: str | None
    legs: tuple[Leg, ...]
    times: tuple[float, ...] = ()

    def as_target(self) -> Target:
        """Return the side as a data set, to be written."""
        kind: DataKind = "vector" if len(self.rows.shape) == 1 else "image"
        return Target(self.rows, None, 0, self.fingerprint, self.weights, kind=kind)


def check_source(config: CoupleConfig, spec: DataSpec) -> DataSpec | None:
    """Check the source's data without Ray, as `data.check_data` does; None where they are not a data set of their own.

    Raises:
        InputError: what `data.check_data` refuses, or data of another shape than the target's.
    """
    if not isinstance(config.source, DataSource):
        return None
    try:
        found = data.check_data(config.source.as_data())
    except InputError as error:
        raise _of_source(error) from error
    if found.shape != spec.shape:
        raise InputError(
            f"source.path={config.source.path!r}: data of shape {list(found.shape)}, those of data.path have "
            f"{list(spec.shape)}; a flow needs both sides alike"
        )
    return found


def read_source(
    config: CoupleConfig, spec: DataSpec | None, target: Target, read: Callable[[DataConfig, DataSpec], Target]
) -> SourceData | None:
    """Read the source side; None where it is noise.

    Args:
        config: the job.
        spec: result of `check_source`.
        target: the target's data.
        read: reads a data set of its own from its configuration and its specification.

    Raises:
        InputError: what the reader refuses, or fewer than two time points.
    """
    if not config.two_sided:
        return None
    flips = config.data.flips
    if not isinstance(config.source, DataSource):
        times, legs = _chain(config.data, target)
        columns = target.columns_fingerprint
        weights = _grown(config.data, target, times)
        return SourceData(target.rows, flips, weights, target.fingerprint, columns, legs, times)
    assert spec is not None
    try:
        found = read(config.source.as_data(), spec)
    except InputError as error:
        raise _of_source(error) from error
    every = Leg(_ids(found.rows, config.source.flips), _ids(target.rows, flips))
    columns = found.columns_fingerprint
    return SourceData(found.rows, config.source.flips, found.weights, found.fingerprint, columns, (every,))


def weights_of(
    weights: Float64[np.ndarray, " N"] | None, ids: Int64[np.ndarray, " k"]
) -> Float64[np.ndarray, " k"] | None:
    """Select the weights of some ids, with sum 1; None for equal weights. A mirror image has its datum's weight."""
    if weights is None:
        return None
    chosen = weights[ids % len(weights)]
    return chosen / chosen.sum()


def _chain(config: DataConfig, target: Target) -> tuple[tuple[float, ...], tuple[Leg, ...]]:
    """Find the time points that take part, and the legs between them."""
    assert target.times is not None
    found = np.unique(target.times)
    for time in config.leave_out:
        if time not in found:
            raise InputError(f"data.leave_out={time:g}: no such time point; the data have {_listed(found)}")
    kept = [float(time) for time in found if time not in config.leave_out]
    if len(kept) < 2:
        raise InputError(f"data.time={config.time!r}: a chain needs two time points, and {_listed(kept)} is left")
    ids, first, last = _ids(target.rows, config.flips), kept[0], kept[-1]
    at = {time: ids[target.times[ids % len(target)] == time] for time in kept}
    for time, there in at.items():
        if target.weights is not None and not target.weights[there % len(target)].any():
            raise InputError(f"data.weight={config.weight!r}: 0 throughout at time point {time:g}; leave it out")
    scaled = {time: (time - first) / (last - first) for time in kept}
    return tuple(kept), tuple(Leg(at[a], at[b], (scaled[a], scaled[b])) for a, b in pairwise(kept))


def _grown(config: DataConfig, target: Target, times: tuple[float, ...]) -> Float64[np.ndarray, " N"] | None:
    """Multiply each datum's weight by what it becomes until the next time point; the last ones are no source."""
    if target.growth is None:
        return target.weights
    assert target.times is not None
    weights = np.ones(len(target)) if target.weights is None else target.weights.copy()
    for time, following in pairwise(times):
        there = target.times == time
        with np.errstate(over="ignore", under="ignore"):
            weights[there] *= target.growth[there] ** (following - time)
        if not (np.isfinite(weights[there]).all() and weights[there].any()):
            raise InputError(
                f"data.growth={config.growth!r}: rates to the power of {following - time:g}, the time from {time:g} to "
                f"{following:g}, are beyond numbers; give rates per unit of data.time"
            )
    return weights


def _ids(rows: Rows, flips: bool) -> Int64[np.ndarray, " ids"]:
    return np.arange(len(rows) * (2 if flips else 1))


def _listed(times: list[float] | Float64[np.ndarray, " k"]) -> str:
    return ", ".join(f"{time:g}" for time in times) or "none"


def _of_source(error: InputError) -> InputError:
    """Rewrite a sentence about `data:` for `source:`."""
    return InputError(re.sub(r"\bdata\.(path|column|weight|flips|split|on_bad)\b", r"source.\1", str(error)))
