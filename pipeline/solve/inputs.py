"""The inputs of a coupling job: each is read once, with its fingerprint, before anything is written."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64

from flowpairs.pipeline import data
from flowpairs.pipeline.blocks import source as sources
from flowpairs.pipeline.blocks.conditions import Conditions, read_conditions
from flowpairs.pipeline.blocks.cost_matrix import load_cost_matrix
from flowpairs.pipeline.blocks.features import Features, evenly_spaced, fit_features
from flowpairs.pipeline.blocks.imported_pairs import PairTable, read_table
from flowpairs.pipeline.blocks.source import SourceData
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.data import DataSpec, Target
from flowpairs.pipeline.solve.start import start_potentials


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
    target: Float32[np.ndarray, "ids k"]
    source: Float32[np.ndarray, "ids0 k"] | None = None


def survey_inputs(config: CoupleConfig) -> Survey:
    """Survey a job's inputs without Ray and without reading the data in full.

    Raises:
        InputError: what `data.check_data`, `check_source` or `read_table` refuses.
    """
    spec = data.check_data(config.data)
    table = None if config.coupling.table is None else read_table(config.coupling.table, spec.shape)
    return Survey(spec, sources.check_source(config, spec), table)


def read_inputs(config: CoupleConfig, surveyed: Survey) -> Inputs:
    """Read all inputs of a job: with Ray where there are many files and the job uses Ray, else in this process.

    Raises:
        InputError: what the readers refuse.
    """
    by_ray = config.cluster.actors != 0
    target = data.read_data(config.data, surveyed.target, by_ray=by_ray)
    source = sources.read_source(config, surveyed.source, target, by_ray=by_ray)
    ids = len(target.x) * (2 if config.data.flips else 1)
    return Inputs(
        target=target,
        source=source,
        table=surveyed.table,
        conditions=read_conditions(config.coupling, target),
        costs=None if source is None else load_cost_matrix(config.coupling, len(source.legs[0].source), ids),
        start=start_potentials(config, target),
    )


def feature_space(config: CoupleConfig, inputs: Inputs, fitted: Features | None = None) -> FeatureSpace:
    """Compute the features of every id.

    Args:
        config: config with the features and flips.
        inputs: the inputs, with both sides.
        fitted: the map, where a store has recorded it; None: fit one. For two sides it is one map, fitted to those data
            of both that take part, so that distances are those between the data.
    """
    x, source, flips = inputs.target.x, inputs.source, config.data.flips
    if fitted is None and source is None:
        fitted = fit_features(x, config.features.pca, flips=flips)
    elif fitted is None:
        assert source is not None
        ids = [np.unique(np.concatenate([leg.source for leg in source.legs]))]
        ids += [np.unique(np.concatenate([leg.target for leg in source.legs]))]
        rows = [evenly_spaced(side, part) for side, part in zip((source.x, x), ids, strict=True)]
        fitted = fit_features(np.concatenate(rows), config.features.pca, flips=False)
    target = fitted.of_data(x, flips=flips)
    if source is None:
        return FeatureSpace(fitted, target)
    return FeatureSpace(fitted, target, target if source.x is x else fitted.of_data(source.x, flips=source.flips))


def _sha256(values: np.ndarray, dtype: str) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype).data).hexdigest()
