"""The inputs of a forecast: a data set of few rows itself, of a larger one a sample in memory, so nothing is copied.

What is measured on the sample is scaled to the whole: the seconds to decode rows, to find directions and to compute
features. A store that has its rows already is not read again, and its forecast has only what is left to do.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks import directions
from flowpairs.pipeline.blocks.division import divide
from flowpairs.pipeline.blocks.feature_store import features_directory
from flowpairs.pipeline.blocks.source import Leg, SourceData
from flowpairs.pipeline.config import CoupleConfig, DataConfig
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.make import count_data, is_small, read_small, sample
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.solve.inputs import (
    FeatureSpace,
    Inputs,
    Side,
    Survey,
    feature_space,
    fitting_samples,
    gather_inputs,
)
from flowpairs.pipeline.solve.job import Job
from flowpairs.pipeline.store.format import rows_directory

IDLE = 400 * 2**20  # bytes of a process that has imported Ray, numpy and scipy
MOST = 8_192  # rows of a sample, unless more are asked for
SAMPLE_BYTES = 2**15  # times as many bytes of a sample, as float32: of larger rows there are fewer


@dataclass(frozen=True)
class Sampled:
    """Inputs of a forecast.

    Attributes:
        inputs: the inputs, with all data or a sample of them.
        space: their features.
        rows: number of data in all.
        source: the source side with the ids of all data, for the division into blocks; None where it is noise.
        seconds: time of this process to read the data and compute features, scaled to the whole.
        row_bytes: bytes of the row sets that the job writes.
        feature_bytes: bytes of the features that it writes.
        head_bytes: memory that the driver needs.
    """

    inputs: Inputs
    space: FeatureSpace
    rows: int
    source: SourceData | None
    seconds: float
    row_bytes: int
    feature_bytes: int
    head_bytes: int

    @property
    def most(self) -> int:
        """Rows of the largest block that can be tried."""
        sides = [len(self.space.target)] + ([] if self.space.source is None else [len(self.space.source)])
        return max(sides)

    @property
    def complete(self) -> bool:
        """Whether all data were read."""
        return self.rows == len(self.inputs.target) and (
            self.source is None or self.inputs.source is None or self.source is self.inputs.source
        )

    def job(self, config: CoupleConfig) -> Job:
        """Build the job over the data that were read, with blocks that these can fill and at least one of each leg."""
        n = config.coupling.n if config.coupling.resample else min(config.coupling.n, self.most)
        pairs = max(config.output.pairs, n * max(1, 0 if self.source is None else len(self.source.legs)))
        filled = config.model_copy(
            update={
                "coupling": config.coupling.model_copy(update={"n": n}),
                "output": config.output.model_copy(update={"pairs": pairs}),
            }
        )
        blocks = divide(filled, len(self.inputs.target), self.inputs.source)
        return Job(config, None, blocks, self.inputs, self.space)


def sample_inputs(config: CoupleConfig, surveyed: Survey, store: AnyPath, most: int = MOST) -> Sampled:
    """Read the inputs of a forecast, and measure what the whole will take.

    Args:
        config: the job.
        surveyed: what is known of its data.
        store: its directory.
        most: largest number of rows of a side that are read.

    Raises:
        InputError: what the readers refuse.
    """
    counts: dict[Side, int] = {}
    reading = 0.0

    def read(part: DataConfig, spec: DataSpec, side: Side) -> Target:
        nonlocal reading
        where = rows_directory(store, side)
        if spec.rows is not None and spec.rows <= most and is_small(spec):
            began = time.perf_counter()
            target = read_small(part, spec)
            reading += time.perf_counter() - began
            counts[side] = len(target)
            return target
        counts[side] = spec.rows if spec.rows is not None else count_data(part, spec)
        began = time.perf_counter()
        target = sample(part, spec, max(1, min(most, most * SAMPLE_BYTES // (4 * math.prod(spec.shape)))))
        if not row_set.lost_files(where):  # the rows are there, and only read again
            return target
        reading += (time.perf_counter() - began) * counts[side] / len(target)
        return target

    inputs = gather_inputs(config, surveyed, read)
    whole = counts["target"]
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    fitted = directions.fit_features(fitting_samples(config, inputs), config.features.pca, mark)
    mark()
    space = feature_space(config, inputs, None, fitted)
    mark()
    fitting, fixed, computing = np.diff(marks)
    share = min(whole, directions.MOST_ROWS) / min(len(inputs.target), directions.MOST_ROWS)
    reading += float(fitting * share + fixed + computing * whole / len(inputs.target))
    source = _whole_source(inputs, counts)
    shape, ids = inputs.target.rows.shape, whole * (2 if config.data.flips else 1)
    itemsize = np.dtype(inputs.target.rows.dtype).itemsize
    kept = config.features.pca is not None or config.coupling.method == "semidiscrete"
    width, wide = math.prod(shape), config.features.pca
    missing = sum(count for side, count in counts.items() if row_set.lost_files(rows_directory(store, side)))
    work = 0
    if wide is not None:
        work = 4 * 8 * width**2 if width <= directions.WIDE else 6 * 8 * width * (wide + directions.SPARE)
    return Sampled(
        inputs=inputs,
        space=space,
        rows=whole,
        source=source,
        seconds=reading,
        row_bytes=missing * width * itemsize,
        feature_bytes=4 * ids * space.map.dim if kept and row_set.lost_files(features_directory(store)) else 0,
        head_bytes=IDLE + work + 24 * ids + 2 * min(row_set.PART_BYTES, whole * width * itemsize),
    )


def _whole_source(inputs: Inputs, counts: dict[Side, int]) -> SourceData | None:
    """Give the source side the ids of all data: as many to each leg as its share of the sample says."""
    source = inputs.source
    if source is None:
        return None
    own: Side = "source" if "source" in counts else "target"
    at = counts["target"] / len(inputs.target), counts[own] / len(source.rows)
    if at == (1.0, 1.0):
        return source
    legs = tuple(
        Leg(np.arange(round(at[1] * len(leg.source))), np.arange(round(at[0] * len(leg.target))), leg.span)
        for leg in source.legs
    )
    return replace(source, legs=legs)
