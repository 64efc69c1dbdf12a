"""What a job's first blocks know and its later ones start from, with `coupling.warm_start`: potentials per data id.

The blocks of the first epoch cover the data ids once and are solved cold; all others start from their potentials, by
data id. So where a block starts is a function of the config and the data, whoever computes it and when.
"""

from io import BytesIO

import numpy as np
from jaxtyping import Float32, Float64, Int64

from pipeline.blocks import Blocks
from pipeline.place import Place


def file(directory: Place, block: int) -> Place:
    """Where a block's target potential is."""
    return directory / "potentials" / f"b{block:06d}.npy"


def start(
    directory: Place, blocks: Blocks, block: int, data_features: Float32[np.ndarray, "ids k"]
) -> Float64[np.ndarray, " m"] | None:
    """The potential that a block starts from; None for those of the first epoch.

    Data that the first epoch left over take the value of the nearest datum that it had.
    """
    if block in blocks.seeds:
        return None
    g = np.full(blocks.ids, np.nan)
    for seed in blocks.seeds:
        values = np.load(BytesIO(file(directory, seed).read_bytes()), allow_pickle=False)
        g[blocks.data_ids(seed)] = values - values.mean()  # a potential is known up to a constant
    ids = blocks.data_ids(block)
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
