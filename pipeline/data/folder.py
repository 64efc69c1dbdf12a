"""A folder of images, read recursively; the class is the name of the folder that an image lies in."""

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


def survey(place: Location, config: DataConfig) -> DataSpec:
    """Read every image's header, of a remote folder the first one; see `flowpairs.pipeline.data.check`."""
    tally = Tally()
    for path in place.files if place.local else place.files[:1]:
        with place.filesystem.open(path, "rb") as file:
            tally.add(header_shape(file, _where(path)), "image", _where(path))
    tally.num_classes = len(_classes(place, config))
    return tally.spec(len(place.files), f"data.path={place.path!r}", rows=len(place.files))


def dataset(place: Location, config: DataConfig, spec: DataSpec) -> "ray.data.Dataset":
    """Ray Data's reader of whole files, brought to uniform rows."""
    import ray.data

    files = ray.data.read_binary_files(**place.ray_paths(), include_paths=True)
    uniform = partial(_uniform, classes=_classes(place, config), shape=spec.shape)
    return files.map_batches(uniform, batch_size=BATCH_ROWS)


def _uniform(batch: dict[str, Any], classes: list[str], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Uniform rows of one batch of files."""
    paths = [str(path) for path in batch["path"]]
    names = [_where(path) for path in paths]
    x = stack([decode_image(data, name) for data, name in zip(batch["bytes"], names, strict=True)], shape, names)
    if not classes:
        return {"x": x}
    return {"x": x, "label": np.array([classes.index(PurePosixPath(path).parent.name) for path in paths], np.int64)}


def _classes(place: Location, config: DataConfig) -> list[str]:
    """The sorted names of the folders that images lie in, [] without labels."""
    if config.label is None:
        return []
    parents = [PurePosixPath(path).parent for path in place.files]
    if PurePosixPath(place.root) in parents:
        raise InputError(
            f"data.label={config.label!r}: some images lie in {place.path!r} itself, so they have no class folder; "
            "move them into one folder per class, or leave data.label out"
        )
    return sorted({parent.name for parent in parents})


def _where(path: str) -> str:
    return f"data.path: {path}"
