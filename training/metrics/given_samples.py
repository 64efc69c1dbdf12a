"""Samples that were made anywhere, held to the data of a pair store."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import load_npy, load_npz
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.data.schema import to_uniform
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.config import EvaluateConfig
from flowpairs.training.metrics.feature_network import extractor
from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance
from flowpairs.training.pairs.endpoints import read_endpoints

KEYS = "features", "pca", "data", "split"  # of an evaluation that count for samples that are given
NAMES = "samples", "x1", "x", "arr_0"  # of the array, where an .npz has several


def score(store: str | AnyPath, file: Path, config: EvaluateConfig) -> dict[str, Any]:
    """Compute the Frechet distance of samples to the data of a store, or to held-out data.

    Args:
        store: the pair store, whose data the samples are held to.
        file: the samples [n, *shape], .npy or .npz; uint8 images are scaled to [-1, 1].
        config: the evaluation, of which KEYS count; what concerns a solver does not.

    Raises:
        InputError: the store is not complete, or the file holds no samples of its shape.
    """
    index = read_index(store)
    samples = read_samples(file, index.shape)
    network = extractor(config.features, index.shape)
    real = read_endpoints(str(as_path(store)), index, config).end.x
    features = Principal.fit(real, config.pca) if network is None else network.on(torch.device("cpu"))
    distance = frechet_distance(Gaussian.fit(features(real)), Gaussian.fit(features(samples)))
    return {
        "samples": len(samples),
        "samples_file": str(file),
        "pairs_dir": str(store),
        "data": len(real),
        "data_fingerprint": index.data_fingerprint if config.data is None else None,
        "held_out": config.data,
        "features": f"{min(config.pca, real[0].numel())} principal components" if network is None else str(network),
        "fd": distance,
    }


def read_samples(file: Path, shape: tuple[int, ...]) -> Float32[Tensor, "n *shape"]:
    """Read samples of a shape from .npy or .npz, by the rules for data: channels first, uint8 scaled to [-1, 1].

    Raises:
        InputError: no such file, no array that can be the samples, another shape, fewer than two, NaN or Inf.
    """
    where = f"--samples {str(file)!r}"
    if not file.is_file():
        raise InputError(f"{where}: no such file; give .npy or .npz")
    try:
        given = load_npy(file) if file.suffix == ".npy" else _choose(file, where)
    except (OSError, ValueError, BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: cannot be read ({error}); write it with numpy.save or numpy.savez") from error
    if given.ndim < 2 or len(given) < 2:
        raise InputError(f"{where}: shape {list(given.shape)}; give at least two samples, [n, ...]")
    rows = given if given.shape[1:] == shape and given.dtype == np.float32 else to_uniform(given, where)
    values = Rows.of(rows).read(np.arange(len(rows)))
    if values.shape[1:] != shape:
        raise InputError(f"{where}: samples of shape {list(values.shape[1:])}; the pairs have {list(shape)}")
    if not np.isfinite(values).all():
        raise InputError(f"{where}: has NaN or Inf; leave such samples out or mend the model")
    return torch.from_numpy(values)


def _choose(file: Path, where: str) -> np.ndarray:
    """Load the array of an .npz that can be the samples."""
    with file.open("rb") as opened:
        arrays = load_npz(opened)
    name = next((name for name in NAMES if name in arrays), next(iter(arrays), None) if len(arrays) == 1 else None)
    if name is None:
        raise InputError(f"{where}: arrays {', '.join(sorted(arrays)) or 'none'}; name the samples' one `samples`")
    return arrays[name]
