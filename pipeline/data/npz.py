"""Data sets that are a single array: scikit-learn's digits and .npz."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.extras import require
from flowpairs.pipeline.base.npy import plain_array
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.discover import Location
from flowpairs.pipeline.data.schema import Tally, class_ids, layout, measures, to_uniform
from flowpairs.pipeline.data.spec import DataSpec

BATCH_BYTES = 32 * 2**20  # per batch


def survey(location: Location, config: DataConfig) -> DataSpec:
    """Load the arrays and check every number; see `flowpairs.pipeline.data.check_data`."""
    stored, labels, _ = _load(location, config)
    shape, kind = layout(stored.shape[1:], stored.dtype, _where(config))
    for rows in _slices(stored):
        to_uniform(stored[rows], _where(config))
    tally = Tally()
    tally.add(shape, kind, _where(config), rows=len(stored))
    if labels is not None:
        tally.add_labels(labels)
    return tally.spec(len(location.files), _where(config))


def batches(location: Location, config: DataConfig, spec: DataSpec) -> Iterator[dict[str, np.ndarray]]:
    """Yield uniform batches of the data set, read whole in this process: an archive's array cannot be read in parts."""
    stored, labels, columns = _load(location, config)
    if labels is not None:
        columns["label"] = labels
    for rows in _slices(stored):
        yield {"x": to_uniform(stored[rows], _where(config)), **{name: c[rows] for name, c in columns.items()}}


def _load(
    location: Location, config: DataConfig
) -> tuple[Shaped[np.ndarray, "n ..."], Int64[np.ndarray, " n"] | None, dict[str, np.ndarray]]:
    """Load the stored array, its labels and its other columns; nothing is ever unpickled."""
    if location.format == "digits":
        return *_digits(), {}
    where = f"data.path={location.path!r}"
    try:
        with location.filesystem.open(location.files[0], "rb") as file, np.load(file, allow_pickle=False) as archive:
            stored = _member(archive, "column", config.column)
            labels = None if config.label is None else _member(archive, "label", config.label)
            columns = {
                key: measures(_member(archive, key, name), len(stored), f"data.{key}={name!r}")
                for key, name in config.columns().items()
            }
    except InputError:
        raise
    except Exception as error:  # zip and header parsers raise a dozen kinds of exceptions on a damaged file
        raise InputError(f"{where}: not a .npz of plain arrays ({error}); write it with numpy.savez") from error
    if stored.ndim == 0 or len(stored) == 0:
        raise InputError(f"{_where(config)}: no rows; give data with at least one")
    if labels is not None:
        labels = class_ids(labels, len(stored), f"data.label={config.label!r}")
    return stored, labels, columns


def _digits() -> tuple[Shaped[np.ndarray, "n 1 8 8"], Int64[np.ndarray, " n"]]:
    """Load the 1,797 digits that scikit-learn embeds, scaled from 0 to 16 to [-1, 1]; they always have labels."""
    require("data.path='digits'", "sklearn")
    package = importlib.util.find_spec("sklearn")  # not imported, which takes longer than all the rest of reading
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return (table[:, :-1] / 8 - 1).astype(np.float32).reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)


def _member(archive: np.lib.npyio.NpzFile, key: str, name: str) -> Shaped[np.ndarray, "..."]:
    """Read one array of an archive by its name."""
    if name not in archive.files:
        raise InputError(f"data.{key}={name!r}: no such array; the file has {', '.join(archive.files) or 'none'}")
    try:
        return plain_array(archive[name])
    except ValueError as error:  # numpy's refusal to unpickle, or no array at all
        raise InputError(f"data.{key}={name!r}: not a plain array of numbers ({error}); save it as one") from error


def _slices(stored: Shaped[np.ndarray, "n ..."]) -> Iterator[slice]:
    """Yield consecutive row ranges of at most about `BATCH_BYTES` in float32."""
    step = max(1, BATCH_BYTES // (4 * max(1, stored[0].size)))
    for first in range(0, len(stored), step):
        yield slice(first, first + step)


def _where(config: DataConfig) -> str:
    return f"data.path={config.path!r}" if config.path == "digits" else f"data.column={config.column!r}"
