"""The cost of `coupling.cost: precomputed`: a matrix from a file, source ids by data ids, mirror images included."""

import numpy as np
from jaxtyping import Float32

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import plain_array
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.config import CouplingConfig


def load_cost_matrix(config: CouplingConfig, sources: int, ids: int) -> Float32[np.ndarray, "ids0 ids"] | None:
    """Read the matrix; None where the cost is another one.

    Args:
        config: config with cost and matrix.
        sources: number of source ids.
        ids: number of data ids.

    Raises:
        InputError: no such file, or not a matrix of finite numbers of that size.
    """
    if config.matrix is None:
        return None
    where, shape = f"coupling.matrix={config.matrix!r}", (sources, ids)
    path = as_path(config.matrix, "coupling.matrix")
    try:
        with path.open("rb") as file:
            stored = plain_array(np.load(file, allow_pickle=False))
    except Exception as error:  # filesystems and numpy's parser raise a dozen kinds of exceptions
        raise InputError(f"{where}: cannot be read as .npy ({error}); write it with numpy.save") from error
    if stored.dtype.kind not in "iuf" or stored.shape != shape:
        raise InputError(
            f"{where}: {list(stored.shape)} of {stored.dtype}; give numbers, a row for each of {shape[0]} source data "
            f"and a column for each of {shape[1]} data"
        )
    with np.errstate(over="ignore"):
        costs = np.ascontiguousarray(stored, np.float32)
    if not np.isfinite(costs).all():
        raise InputError(f"{where}: has NaN or Inf (as float32); give a large cost instead")
    return costs
