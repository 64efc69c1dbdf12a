"""The inputs of a coupling job: each is read once, with its fingerprint, before anything is written."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64

from flowpairs.pipeline import data
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.base.printing import print_line
from flowpairs.pipeline.blocks import source as sources
from flowpairs.pipeline.blocks.conditions import Conditions, read_conditions
from flowpairs.pipeline.blocks.cost_matrix import load_cost_matrix
from flowpairs.pipeline.blocks.directions import RowSample, fit_features
from flowpairs.pipeline.blocks.feature_store import (
    MAP,
    features_directory,
    load_map,
    make_features,
    save_map,
)
from flowpairs.pipeline.blocks.features import CentredRows, DataFeatures, Features, compute_features
from flowpairs.pipeline.blocks.imported_pairs import PairTable, read_table
from flowpairs.pipeline.blocks.source import SourceData
from flowpairs.pipeline.config import CoupleConfig, DataConfig
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows.make import is_small, make_target, read_small, save_target
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.solve.start import start_potentials
from flowpairs.pipeline.store.format import rows_directory

Side = Literal["target", "source"]
Reader = Callable[[DataConfig, DataSpec, Side], Target]


@dataclass(frozen=True)
class Survey:
    """What is known of a job's inputs before Ray starts and before data are read.

    Attributes:
        target: specification of the target's data.
        source: specification of the source's data; None where the source is not a data set of its own.
        table: pairs made elsewhere, where the config imports them.
    """

    target: DataSpec
    source: DataSpec | None = None
    table: PairTable | None = None

    @property
    def small(self) -> bool:
        """Whether all data can be read before anything is written: into memory, or in place."""
        return is_small(self.target) and (self.source is None or is_small(self.source))


@dataclass(frozen=True)
class Inputs:
    """All that a coupling job reads.

    Attributes:
        target: the target's data.
        source: the source side, where it is data too.
        table: pairs made elsewhere, where the config imports them.
        conditions: conditions of a semi-discrete coupling.
        costs: a precomputed cost, source ids by data ids.
        start: potentials that solves start from, one per data id, where the config names a store that has them.
    """

    target: Target
    source: SourceData | None = None
    table: PairTable | None = None
    conditions: Conditions = field(default_factory=Conditions)
    costs: Float32[np.ndarray, "ids0 ids"] | None = None
    start: Float64[np.ndarray, " ids"] | None = None

    @cached_property
    def fingerprints(self) -> dict[str, str | None]:
        """Collect the fingerprint of everything that was read, by its key in the config."""
        found = {
            "data.fingerprint": self.target.fingerprint,
            "data.columns_fingerprint": self.target.columns_fingerprint,
            "coupling.table_fingerprint": None if self.table is None else self.table.fingerprint(),
            "coupling.matrix_fingerprint": None if self.costs is None else _sha256(self.costs, "<f4"),
            "coupling.condition_fingerprint": self.conditions.fingerprint,
            "coupling.start_fingerprint": None if self.start is None else _sha256(self.start, "<f8"),
        }
        if self.source is not None and not self.source.times:  # a chain's source is the target itself
            found["source.fingerprint"] = self.source.fingerprint
            found["source.columns_fingerprint"] = self.source.columns_fingerprint
        return found


@dataclass(frozen=True)
class FeatureSpace:
    """Both sides in the space of the cost.

    Attributes:
        map: map from data space to features.
        target: features of every data id.
        source: features of every source id, where the source is data.
    """

    map: Features
    target: DataFeatures
    source: DataFeatures | None = None

    def sample(self, seed: int, count: int) -> tuple[Float32[np.ndarray, "r k"], Float32[np.ndarray, "c k"]]:
        """Take up to `count` evenly spaced rows of the source, or the first of its noise, and of the target."""

        def some(side: DataFeatures) -> Float32[np.ndarray, "r k"]:
            return side.take(np.unique(np.linspace(0, len(side) - 1, count).astype(np.int64)))

        return self.map.of_noise(seed, 0, count) if self.source is None else some(self.source), some(self.target)


def survey_inputs(config: CoupleConfig) -> Survey:
    """Survey a job's inputs without Ray and without reading the data in full.

    Raises:
        InputError: what `data.check_data`, `check_source` or `read_table` refuses.
    """
    spec = data.check_data(config.data)
    table = None if config.coupling.table is None else read_table(config.coupling.table, spec.shape)
    return Survey(spec, sources.check_source(config, spec), table)


def read_inputs(config: CoupleConfig, surveyed: Survey, store: AnyPath | None, *, final: bool = False) -> Inputs:
    """Read all inputs of a job; a data set of several parts becomes a row set in the store, which the caller owns.

    Args:
        config: the job.
        surveyed: result of `survey_inputs`.
        store: the pair store; None where `surveyed.small`.
        final: whether the store has pairs, so that only the same data may take the part of its rows.

    Raises:
        InputError: what the readers refuse.
    """
    by_ray = config.cluster.actors != 0

    def read(part: DataConfig, spec: DataSpec, side: Side) -> Target:
        if is_small(spec):
            return read_small(part, spec)
        assert store is not None
        where = rows_directory(store, side)
        return make_target(part, spec, where, by_ray=by_ray, final=final, named=f"{side} rows")

    return gather_inputs(config, surveyed, read)


def gather_inputs(config: CoupleConfig, surveyed: Survey, read: Reader) -> Inputs:
    """Gather a job's inputs.

    Args:
        config: the job.
        surveyed: result of `survey_inputs`.
        read: reads one side's data set, from its configuration, its specification, and "target" or "source".

    Raises:
        InputError: what the readers refuse.
    """
    target = read(config.data, surveyed.target, "target")
    source = sources.read_source(config, surveyed.source, target, lambda part, spec: read(part, spec, "source"))
    ids = len(target) * (2 if config.data.flips else 1)
    return Inputs(
        target=target,
        source=source,
        table=surveyed.table,
        conditions=read_conditions(config.coupling, target),
        costs=None if source is None else load_cost_matrix(config.coupling, len(source.legs[0].source), ids),
        start=start_potentials(config, target),
    )


def save_inputs(inputs: Inputs, store: AnyPath) -> Inputs:
    """Write as row sets what was read into memory, and return the inputs with rows that are read from there."""
    target = save_target(inputs.target, rows_directory(store))
    source = inputs.source
    if source is not None and source.rows is inputs.target.rows:
        source = replace(source, rows=target.rows)
    elif source is not None:
        saved = save_target(source.as_target(), rows_directory(store, "source"))
        source = replace(source, rows=saved.rows)
    return replace(inputs, target=target, source=source)


def feature_space(
    config: CoupleConfig, inputs: Inputs, store: AnyPath | None, fitted: Features | None = None
) -> FeatureSpace:
    """Compute the features of every id by the map that the store has recorded, or that is fitted and recorded now.

    For two sides the map is one, fitted to those data of both that take part, so that distances are those between the
    data.

    Args:
        config: config with the features and flips.
        inputs: the inputs, with both sides.
        store: the pair store; None: all features are computed in memory.
        fitted: the map, where it is there already.
    """
    directory = None if store is None else features_directory(store)
    if fitted is None and directory is not None and (directory / MAP).is_file():
        fitted = load_map(directory)
    elif fitted is None:
        fitted = fit_features(fitting_samples(config, inputs), config.features.pca)
        if fitted.captured is not None and directory is not None:
            print_line(
                f"features: {fitted.dim} directions hold {100 * fitted.captured:.1f} % of the variance", sys.stderr
            )
        if directory is not None:
            save_map(fitted, directory)

    def features(rows: Rows, origin: str, side: Side, *, flips: bool) -> DataFeatures:
        kept = fitted.basis is not None or config.coupling.method == "semidiscrete"
        if store is not None and kept:
            where, by_ray = features_directory(store, side), config.cluster.actors != 0
            return make_features(where, fitted, rows, origin, flips=flips, by_ray=by_ray)
        return compute_features(fitted, rows, flips=flips) if kept else CentredRows(fitted, rows, flips)

    target, source = inputs.target, inputs.source
    of_target = features(target.rows, target.fingerprint, "target", flips=config.data.flips)
    if source is None:
        return FeatureSpace(fitted, of_target)
    if source.rows is target.rows:
        return FeatureSpace(fitted, of_target, of_target)
    return FeatureSpace(fitted, of_target, features(source.rows, source.fingerprint, "source", flips=source.flips))


def fitting_samples(config: CoupleConfig, inputs: Inputs) -> list[RowSample]:
    """List the data that the map is fitted to."""
    rows, source = inputs.target.rows, inputs.source
    if source is None:
        return [RowSample(rows, np.arange(len(rows)), config.data.flips)]
    return [
        RowSample(source.rows, np.unique(np.concatenate([leg.source for leg in source.legs]))),
        RowSample(rows, np.unique(np.concatenate([leg.target for leg in source.legs]))),
    ]


def _sha256(values: np.ndarray, dtype: str) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype).data).hexdigest()
