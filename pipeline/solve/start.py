"""Potentials per data id that solves start from: a job's first blocks' (`coupling.warm_start`), or another store's.

The blocks of the first epoch cover the data ids once and are solved cold; all others start from their potentials, by
data id. So where a block starts is a function of the config and the data, whoever computes it and when.
"""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.blocks.division import Blocks, divide
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.store.format import read_index

if TYPE_CHECKING:
    from flowpairs.pipeline.data.spec import Target


def block_file(directory: AnyPath, block: int) -> AnyPath:
    """Where a block's target potential is."""
    return directory / "potentials" / f"b{block:06d}.npy"


def start(
    directory: AnyPath, blocks: Blocks, block: int, data_features: Float32[np.ndarray, "ids k"]
) -> Float64[np.ndarray, " m"] | None:
    """The potential that a block starts from; None for those of the first epoch.

    Data that the first epoch left over take the value of the nearest datum that it had.
    """
    if block in blocks.seeds:
        return None
    ids = blocks.data_ids(block)
    return fill_missing(_of_blocks(directory, blocks), ids, data_features)


def potentials_of_store(path: str, blocks: Blocks, target: "Target") -> Float64[np.ndarray, " ids"]:
    """The potential of every data id in another pair store, for `coupling.start`; NaN where it has none.

    Args:
        path: of the store, semi-discrete or Sinkhorn's.
        blocks: of this job; target: its data.

    Raises:
        InputError: no store is there, it is of other data or of another cost, or it has no potentials.
    """
    where, directory = f"coupling.start={path!r}", as_path(path)
    index = read_index(directory)
    config = load(CoupleConfig, directory / "config.yaml")
    if index.data_fingerprint != target.fingerprint or (theirs := divide(config, len(target.x))).ids != blocks.ids:
        raise InputError(f"{where}: holds pairs of other data; give a store over the same data and flips")
    if config.coupling.cost != "dot" or config.coupling.method not in ("sinkhorn", "semidiscrete"):
        raise InputError(
            f"{where}: method {config.coupling.method} with cost {config.coupling.cost}; give a store of method "
            "sinkhorn or semidiscrete with cost dot"
        )
    if config.coupling.method == "semidiscrete":
        from flowpairs.pipeline.solve import potentials

        return potentials.load_potentials(directory).g
    return _of_blocks(directory, theirs)


def start_potentials(
    config: CoupleConfig, blocks: Blocks, target: "Target", data_features: Float32[np.ndarray, "ids k"]
) -> Float64[np.ndarray, " ids"] | None:
    """The potential of every data id that `coupling.start` names, completed; None where it names no store.

    Raises:
        InputError: what `elsewhere` refuses.
    """
    if config.coupling.start is None:
        return None
    return fill_missing(
        potentials_of_store(config.coupling.start, blocks, target), np.arange(blocks.ids), data_features
    )


def _of_blocks(directory: AnyPath, blocks: Blocks) -> Float64[np.ndarray, " ids"]:
    """The potentials of a store's first epoch by data id, NaN where it had none."""
    g = np.full(blocks.ids, np.nan)
    for seed in blocks.seeds:
        try:
            values = np.load(BytesIO(block_file(directory, seed).read_bytes()), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{block_file(directory, seed)}: not the potential of a block ({error}); couple again"
            ) from error
        g[blocks.data_ids(seed)] = values - values.mean()  # a potential is known up to a constant
    return g


def fill_missing(
    g: Float64[np.ndarray, " ids"], ids: Int64[np.ndarray, " m"], data_features: Float32[np.ndarray, "ids k"]
) -> Float64[np.ndarray, " m"]:
    """The potential of some ids, where it is unknown that of the nearest datum whose is known."""
    unknown = ids[np.isnan(g[ids])]
    if len(unknown):
        g[unknown] = g[_nearest(data_features, unknown, np.flatnonzero(~np.isnan(g)))]
    return g[ids]


def _nearest(
    features: Float32[np.ndarray, "ids k"], rows: Int64[np.ndarray, " r"], among: Int64[np.ndarray, " c"]
) -> Int64[np.ndarray, " r"]:
    """For each of `rows` the nearest of `among`."""
    from scipy.spatial import KDTree  # exact, and as quick as a scan where there are many features

    return among[KDTree(features[among]).query(features[rows])[1]]
