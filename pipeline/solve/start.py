"""The start of solves from the potentials of another pair store, by data id (`coupling.start`)."""

import numpy as np
from jaxtyping import Float64

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.blocks.division import divide
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.store.format import read_index
from flowpairs.pipeline.store.potential_files import block_potentials, load_potentials


def start_potentials(config: CoupleConfig, target: Target) -> Float64[np.ndarray, " ids"] | None:
    """Read the potential of every data id from the store that `coupling.start` names; None where it names none.

    A data id that no block of that store has starts from the mean, 0.

    Args:
        config: config whose `coupling.start` is read.
        target: the job's data.

    Raises:
        InputError: no store is there, it is of other data or of another cost, or it has no potentials.
    """
    if config.coupling.start is None:
        return None
    where, directory = f"coupling.start={config.coupling.start!r}", as_path(config.coupling.start)
    index = read_index(directory)
    theirs = load(CoupleConfig, directory / "config.yaml")
    method, cost = theirs.coupling.method, theirs.coupling.cost
    if cost != "dot" or method not in ("sinkhorn", "semidiscrete") or theirs.two_sided:
        raise InputError(
            f"{where}: method {method} with cost {cost} and source {theirs.source.kind}; give a store of method "
            "sinkhorn or semidiscrete with cost dot, coupled with noise"
        )
    if theirs.coupling.regions is not None:
        raise InputError(f"{where}: coupled in regions, which have no potential in common; give another store")
    blocks = divide(theirs, len(target))
    if index.data_fingerprint != target.fingerprint or theirs.data.flips != config.data.flips:
        raise InputError(f"{where}: holds pairs of other data; give a store over the same data and flips")
    if method == "semidiscrete":
        return load_potentials(directory).g
    return np.nan_to_num(block_potentials(directory, blocks))
