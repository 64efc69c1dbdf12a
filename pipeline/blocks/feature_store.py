"""The features of a pair store: DIR/features holds the map and, in parts as rows are, the features of every data id.

    map.npz          mean [D] and basis [D, k] float32, with the variance along each direction and in all
    part-00000.npy   features [r, k] float32 of the ids of a part of the rows; the parts of mirror images come last
    manifest.json    as in a row set (pipeline/data/rows/row_set.py)

Every later run in the store uses them, bit by bit. Where features are all coordinates of the data and no potential
needs those of all ids at once, there is the map alone: they are computed from rows when they are asked for.
"""

import hashlib
import time
from functools import partial
from io import BytesIO
from typing import Literal

import numpy as np
from jaxtyping import Int64

from flowpairs.pipeline.base.atomic import atomic_open
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import load_npz
from flowpairs.pipeline.base.paths import AnyPath, refuse_special
from flowpairs.pipeline.base.progress import progress, remaining
from flowpairs.pipeline.blocks.features import CentredRows, DataFeatures, Features, project, stretches
from flowpairs.pipeline.data.rows import finished_parts, row_set
from flowpairs.pipeline.data.rows.finished_parts import FinishedPart
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.data.rows.stage import run_tasks

MAP = "map.npz"


def features_directory(store: AnyPath, side: Literal["target", "source"] = "target") -> AnyPath:
    """Directory of a side's features in a pair store."""
    return store / ("features" if side == "target" else "source_features")


def save_map(features: Features, directory: AnyPath) -> None:
    """Write the feature map."""
    arrays = {"mean": features.mean, "total": np.array(features.total)}
    if features.basis is not None:
        arrays |= {"basis": features.basis}
    if features.variances is not None:
        arrays |= {"variances": features.variances}
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_open(directory / MAP) as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_map(directory: AnyPath) -> Features:
    """Read the feature map.

    Raises:
        InputError: it is missing or damaged.
    """
    path, remedy = directory / MAP, "couple into a new directory"
    try:
        refuse_special(path)
        with path.open("rb") as file:
            found = load_npz(file)
        mean, basis, variances = (found.get(name) for name in ("mean", "basis", "variances"))
        total = float(found["total"]) if "total" in found else 0.0
    except Exception as error:  # zip and header parsers raise a dozen kinds of exceptions
        raise InputError(f"{path}: not the features of a pair store ({error}); {remedy}") from error
    if (
        mean is None
        or mean.dtype != np.float32
        or mean.ndim != 1
        or (basis is not None and (basis.dtype != np.float32 or basis.ndim != 2 or len(basis) != len(mean)))
        or (variances is not None and (basis is None or variances.shape != basis.shape[1:]))
    ):
        raise InputError(f"{path}: not the features of a pair store; {remedy}")
    return Features(mean, basis, None if variances is None else variances.astype(np.float64), total)


def make_features(
    directory: AnyPath, features: Features, rows: Rows, origin: str, *, flips: bool, by_ray: bool
) -> DataFeatures:
    """Compute the features of every data id and write them, or complete them, and open them.

    Args:
        directory: directory of the features, in one that the caller owns.
        features: the map.
        rows: the data.
        origin: fingerprint of the data.
        flips: whether mirror images have ids.
        by_ray: compute by Ray Data's tasks on all nodes, which have to reach the rows and the directory.
    """
    own = _identity(features, origin, flips=flips)
    if row_set.read_identity(directory) == own and not row_set.lost_files(directory):
        return open_features(directory, features, rows, flips=flips)
    (directory / row_set.MANIFEST).unlink(missing_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    row_set.write_identity(directory, own)
    every = stretches(rows, flips)
    work, done, began = partial(_make_part, directory, features, rows, own), list[FinishedPart](), time.monotonic()
    with progress("features", len(every)) as show:
        for finished in run_tasks(work, list(enumerate(every)), by_ray=by_ray):
            done.append(finished)
            left = remaining(float(len(done)), float(len(every)), time.monotonic() - began)
            show(len(done), f"{len(done)}/{len(every)} parts  {left} left")
    done.sort(key=lambda each: each.number)
    files = [each.part for each in done if each.part is not None]
    row_set.write_manifest(
        directory,
        row_set.Manifest(
            rows=sum(part.rows for part in files),
            shape=(features.dim,),
            dtype="float32",
            scale=row_set.SCALES["float32"],
            kind="vector",
            num_classes=0,
            class_names=(),
            parts=tuple(files),
            columns=(),
            fingerprint=row_set.fingerprint((features.dim,), "float32", files, ()),
        ),
    )
    finished_parts.remove_sidecars(directory, done)
    return open_features(directory, features, rows, flips=flips)


def open_features(directory: AnyPath, features: Features, rows: Rows, *, flips: bool) -> DataFeatures:
    """Open the features of every data id that a store has, or those that are computed from its rows.

    Raises:
        InputError: they are damaged, or of other data.
    """
    if not (directory / row_set.MANIFEST).is_file():
        if features.basis is not None:
            raise InputError(f"{directory / row_set.MANIFEST}: missing; run the same `flowpairs couple` again")
        return CentredRows(features, rows, flips)
    manifest, count = row_set.read_manifest(directory), len(rows) * (2 if flips else 1)
    if manifest.rows != count or manifest.shape != (features.dim,) or manifest.dtype != "float32":
        found = f"{manifest.rows} of {list(manifest.shape)} {manifest.dtype}"
        raise InputError(f"{directory}: features {found}, not {count} of [{features.dim}] float32; couple again")
    return row_set.open_rows(directory, manifest)


def _make_part(
    directory: AnyPath, features: Features, rows: Rows, own: str, item: tuple[int, Int64[np.ndarray, " r"]]
) -> FinishedPart:
    """Compute and write one part, unless that is done; this is a task."""
    number, ids = item
    if (found := finished_parts.find_part(directory, number, own)) is not None:
        return found
    return finished_parts.write_rows(directory, number, own, project(features, rows, ids), {})


def _identity(features: Features, origin: str, *, flips: bool) -> str:
    """Hash what features are computed from."""
    digest, buffer = hashlib.sha256(f"{origin} {flips}".encode()), BytesIO()
    for array in (features.mean, features.basis):
        if array is not None:
            np.save(buffer, array, allow_pickle=False)
    digest.update(buffer.getvalue())
    return digest.hexdigest()
