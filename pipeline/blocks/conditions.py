"""Conditions of a semi-discrete coupling (`coupling.condition`; arXiv 2509.25519, section 4), and its data's weights.

blind      noise is coupled with all data, whatever their labels
class      each noise row has a class, drawn as often as the data have it, and is coupled with the data of that class
extended   each noise row has a condition z, that of a datum drawn at random, and the cost is c_X + beta c_Z with
           c_Z = |z - z_j|^2 / 2, for classes 1 where they differ; a large beta comes near `class`

Data are drawn as often as their weights say, and data of weight 0 take no part.

The datum from which a source row takes its condition is a function of the row's number, so it is the same in the
coupling job and in a training job's loader. The label of a pair is always that of its datum.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import plain_array
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.config import CouplingConfig

if TYPE_CHECKING:
    from flowpairs.pipeline.data.rows.target import Target

ConditionKind = Literal["blind", "class", "extended"]
EVERY = 0  # the only problem where classes do not form problems of their own


@dataclass(frozen=True)
class Conditions:
    """Conditions of N data, mirror images not counted; a mirror image has the condition of its datum.

    Attributes:
        kind: one of the kinds above.
        labels: class ids, for `class`.
        rows: sqrt(beta) z, for `extended`: further coordinates of the features, with which the dot product is the cost.
        fingerprint: sha256 of the z that a file gave.
        weights: how much each datum counts, not negative; None where they count alike.
    """

    kind: ConditionKind = "blind"
    labels: Int64[np.ndarray, " N"] | None = None
    rows: Float32[np.ndarray, "N q"] | None = None
    fingerprint: str | None = None
    weights: Float64[np.ndarray, " N"] | None = None

    @property
    def width(self) -> int:
        """Number of coordinates that conditions add to the features."""
        return 0 if self.rows is None else self.rows.shape[1]

    def problems(self) -> list[int]:
        """List the numbers of the problems to be solved separately: the classes that occur, or one."""
        if self.labels is None:
            return [EVERY]
        return np.unique(self.labels if self.weights is None else self.labels[self.weights > 0]).tolist()

    def ids(self, problem: int, ids: int) -> Int64[np.ndarray, " k"]:
        """Select the data ids of a problem out of `ids` in all."""
        every = np.arange(ids)
        if self.weights is not None:
            every = every[self.weights[every % len(self.weights)] > 0]
        return every if self.labels is None else every[self.labels[every % len(self.labels)] == problem]

    def lenders(
        self, seed: int, first: int, count: int, stream: noise.Stream = noise.Stream.CONDITION
    ) -> Int64[np.ndarray, " count"]:
        """Draw the data whose conditions source rows `first` to `first + count` take."""
        among = self.labels if self.labels is not None else self.rows
        assert among is not None
        u = noise.uniforms(seed, stream, first, count)
        if self.weights is None:
            return (u * len(among)).astype(np.int64)
        below = np.cumsum(self.weights)
        return np.searchsorted(below[: np.flatnonzero(self.weights)[-1]], u * below[-1], side="right")


def read_conditions(config: CouplingConfig, target: "Target") -> Conditions:
    """Build the conditions that the config asks for.

    Args:
        config: config with condition, beta and condition_file.
        target: the data.

    Raises:
        InputError: labels that are missing, or a file that is not a matrix of one finite row per datum.
    """
    weights = target.weights if config.method == "semidiscrete" else None
    if config.condition == "blind":
        return Conditions(weights=weights)
    if config.condition_file is not None:
        assert config.beta is not None
        z = _read(config, len(target))
        found = hashlib.sha256(z.data).hexdigest()
        return Conditions("extended", rows=np.float32(config.beta**0.5) * z, fingerprint=found, weights=weights)
    labels = target.labels
    if labels is None:
        raise InputError(f"coupling.condition={config.condition!r}: the data have no labels; give data.label")
    if config.condition == "class":
        return Conditions("class", labels=labels, weights=weights)
    assert config.beta is not None
    corners = np.float32(config.beta**0.5) * np.eye(target.num_classes, dtype=np.float32)
    return Conditions("extended", rows=corners[labels], weights=weights)


def _read(config: CouplingConfig, count: int) -> Float32[np.ndarray, "N q"]:
    assert config.condition_file is not None
    where, path = (
        f"coupling.condition_file={config.condition_file!r}",
        as_path(config.condition_file, "coupling.condition_file"),
    )
    try:
        with path.open("rb") as file:
            stored = plain_array(np.load(file, allow_pickle=False))
    except Exception as error:  # filesystems and numpy's parser raise a dozen kinds of exceptions
        raise InputError(f"{where}: cannot be read as .npy ({error}); write it with numpy.save") from error
    if stored.dtype.kind not in "iuf" or stored.ndim not in (1, 2) or len(stored) != count:
        raise InputError(
            f"{where}: {list(stored.shape)} of {stored.dtype}; give numbers, a row for each of {count} data"
        )
    rows = np.ascontiguousarray(stored.reshape(count, -1), np.float32)
    if not np.isfinite(rows).all():
        raise InputError(f"{where}: has NaN or Inf; fill or remove those data")
    return rows
