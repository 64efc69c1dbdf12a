"""The file features.npz: the feature map of a store, which every later run in that store uses bit by bit."""

import numpy as np

from flowpairs.pipeline.base.atomic import atomic_open
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import load_npz
from flowpairs.pipeline.base.paths import AnyPath, refuse_special
from flowpairs.pipeline.blocks.features import Features

NAME = "features.npz"


def save_features(features: Features, directory: AnyPath) -> None:
    """Write the feature map of a store."""
    arrays = {"mean": features.mean} | ({} if features.basis is None else {"basis": features.basis})
    with atomic_open(directory / NAME) as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_features(directory: AnyPath) -> Features:
    """Read the feature map of a store.

    Raises:
        InputError: it is missing or damaged.
    """
    path = directory / NAME
    try:
        refuse_special(path)
        with path.open("rb") as file:
            arrays = load_npz(file)
        mean, basis = arrays.get("mean"), arrays.get("basis")
    except Exception as error:  # zip and header parsers raise a dozen kinds of exceptions
        raise InputError(f"{path}: not the features of a pair store ({error}); couple into a new directory") from error
    if (
        mean is None
        or mean.dtype != np.float32
        or mean.ndim != 1
        or (basis is not None and (basis.dtype != np.float32 or basis.ndim != 2 or len(basis) != len(mean)))
    ):
        raise InputError(f"{path}: not the features of a pair store; couple into a new directory")
    return Features(mean, basis)
