"""Folders of images, read recursively; the class is the name of the folder that holds an image."""

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.discover import Location
from flowpairs.pipeline.data.images import decode_image, header_shape
from flowpairs.pipeline.data.schema import Tally, stack
from flowpairs.pipeline.data.spec import DataSpec

if TYPE_CHECKING:
    import ray.data

BATCH_ROWS = 256


def survey(location: Location, config: DataConfig) -> DataSpec:
    """Read every image's header, of a remote folder only the first; see `flowpairs.pipeline.data.check_data`."""
    tally = Tally()
    for path in location.files if location.local else location.files[:1]:
        with location.filesystem.open(path, "rb") as file:
            tally.add(header_shape(file, _where(path)), "image", _where(path))
    tally.num_classes = len(_classes(location, config))
    return tally.spec(len(location.files), f"data.path={location.path!r}", rows=len(location.files))


def dataset(location: Location, config: DataConfig, spec: DataSpec) -> "ray.data.Dataset":
    """Build Ray Data's reader of whole files, mapped to uniform rows."""
    import ray.data

    files = ray.data.read_binary_files(**location.ray_paths(), include_paths=True)
    uniform = partial(_uniform, classes=_classes(location, config), shape=spec.shape)
    return files.map_batches(uniform, batch_size=BATCH_ROWS)


def batches(location: Location, config: DataConfig, spec: DataSpec) -> Iterator[dict[str, np.ndarray]]:
    """Yield the same rows in the same order, read in this process."""
    classes = _classes(location, config)
    for start in range(0, len(location.files), BATCH_ROWS):
        paths = location.files[start : start + BATCH_ROWS]
        contents = [location.filesystem.cat_file(path) for path in paths]
        yield _uniform({"path": list(paths), "bytes": contents}, classes, spec.shape)


def _uniform(batch: dict[str, Any], classes: list[str], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Decode one batch of files into uniform rows."""
    paths = [str(path) for path in batch["path"]]
    names = [_where(path) for path in paths]
    x = stack([decode_image(data, name) for data, name in zip(batch["bytes"], names, strict=True)], shape, names)
    if not classes:
        return {"x": x}
    return {"x": x, "label": np.array([classes.index(PurePosixPath(path).parent.name) for path in paths], np.int64)}


def _classes(location: Location, config: DataConfig) -> list[str]:
    """List the sorted names of the folders that hold images; [] without labels."""
    if config.label is None:
        return []
    parents = [PurePosixPath(path).parent for path in location.files]
    if PurePosixPath(location.root) in parents:
        raise InputError(
            f"data.label={config.label!r}: some images lie in {location.path!r} itself, so they have no class folder; "
            "move them into one folder per class, or leave data.label out"
        )
    return sorted({parent.name for parent in parents})


def _where(path: str) -> str:
    return f"data.path: {path}"
