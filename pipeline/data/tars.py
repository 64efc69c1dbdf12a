"""WebDataset tars: one encoded image or .npy array per sample, along with a class id as text.

Only the two named fields are decoded, and only as images, `.npy` without pickles, and ASCII integers.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.tar import members
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.discover import FORMATS, Location
from flowpairs.pipeline.data.images import decode_image, header_shape
from flowpairs.pipeline.data.schema import Tally, class_ids, stack, to_uniform
from flowpairs.pipeline.data.spec import DataSpec

if TYPE_CHECKING:
    import pandas as pd
    import ray.data

BATCH_ROWS = 256
END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


def survey(location: Location, config: DataConfig) -> DataSpec:
    """Read every sample's named fields, of a remote data set the first's; see `flowpairs.pipeline.data.check_data`."""
    image = _is_image(config)
    tally = Tally()
    for path in location.files if location.local else location.files[:1]:
        with location.filesystem.open(path, "rb") as file:
            for key, fields in _samples(file, path, config):
                where = f"data.column={config.column!r} of {key} in {path}"
                if image:
                    tally.add(header_shape(fields[config.column], where), "image", where)
                else:
                    row = _uniform_array(fields[config.column], where)
                    tally.add(row.shape, "vector" if row.ndim == 1 else "image", where)
                if config.label is not None:
                    tally.add_labels(_class_ids([fields[config.label]], f"data.label={config.label!r} of {key}"))
                if not location.local:
                    break
    where = f"data.path={location.path!r}"
    return tally.spec(len(location.files), where, rows=tally.rows if location.local else None)


def dataset(location: Location, config: DataConfig, spec: DataSpec) -> "ray.data.Dataset":
    """Build Ray Data's WebDataset reader without its decoder, mapped to uniform rows."""
    import ray.data

    named = [config.column] if config.label is None else [config.column, config.label]
    samples = ray.data.read_webdataset(**location.ray_paths(), decoder=None, suffixes=named)
    uniform = partial(_uniform, config=config, shape=spec.shape)
    return samples.map_batches(uniform, batch_format="pandas", batch_size=BATCH_ROWS)


def batches(location: Location, config: DataConfig, spec: DataSpec) -> Iterator[dict[str, np.ndarray]]:
    """Yield the same rows in the same order, read in this process."""
    named = [config.column] if config.label is None else [config.column, config.label]
    for path in location.files:
        with location.filesystem.open(path, "rb") as file:
            found = _samples(file, path, config)
            while some := list(islice(found, BATCH_ROWS)):
                batch: dict[str, Any] = {"__key__": [key for key, _ in some]}
                yield _uniform(
                    batch | {name: [fields[name] for _, fields in some] for name in named}, config, spec.shape
                )


def _uniform(
    batch: "pd.DataFrame | dict[str, Any]", config: DataConfig, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Decode one batch of samples into uniform rows."""
    names = [f"data.column={config.column!r} of {key}" for key in batch["__key__"]]
    encoded = _bytes_of(batch, "column", config.column)
    decoder = decode_image if _is_image(config) else _uniform_array
    x = stack([decoder(data, name) for data, name in zip(encoded, names, strict=True)], shape, names)
    if config.label is None:
        return {"x": x}
    labels = _bytes_of(batch, "label", config.label)
    return {"x": x, "label": _class_ids(labels, f"data.label={config.label!r}")}


def _is_image(config: DataConfig) -> bool:
    """Return whether `data.column` names encoded images, not `.npy` arrays; fields of other kinds are not decoded."""
    extension = PurePosixPath(f"x.{config.column}").suffix.lower()
    if extension == ".npy":
        return False
    if FORMATS.get(extension) != "folder":
        images = ", ".join(suffix[1:] for suffix, format in FORMATS.items() if format == "folder")
        raise InputError(f"data.column={config.column!r}: not a field that is decoded; give npy or one of {images}")
    return True


def _samples(file: Any, path: str, config: DataConfig) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key and named fields of each sample, grouped by the WebDataset convention.

    Args:
        file: file open for reading, of its filesystem's class.
        path: path for messages.
        config: config that names the fields.

    Raises:
        InputError: not a tar, cut short, a sample's members not adjacent, or a named field missing or twice.
    """
    named = {"column": config.column} | ({} if config.label is None else {"label": config.label})
    keys: set[str] = set()
    try:
        for key, parts in groupby(_members(file, set(named.values())), key=itemgetter(0)):
            fields: dict[str, bytes] = {}
            for _, field, content in parts:
                if key in keys or field in fields:
                    raise InputError(
                        f"data.path={config.path!r}: sample {key} of {path} is not in one piece, or has {field!r} "
                        "twice; write the tar with its members sorted by name"
                    )
                fields[field] = content
            for option, field in named.items():
                if field not in fields:
                    raise InputError(
                        f"data.{option}={field!r}: no such field in sample {key} of {path}; it has {', '.join(fields)}"
                    )
            keys.add(key)
            yield key, fields
        # tarfile accepts a file that ends between two members, or inside a header, as complete.
        file.seek(-len(END_OF_ARCHIVE), os.SEEK_END)
        if file.read() != END_OF_ARCHIVE:
            raise InputError(f"data.path={config.path!r}: {path} is cut short, its end mark is missing; copy it again")
    except InputError:
        raise
    except (tarfile.TarError, EOFError, OSError, OverflowError, ValueError) as error:
        raise InputError(f"data.path={config.path!r}: {path} cannot be read as tar ({error}); replace it") from error


def _members(file: Any, named: set[str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield the key, field and content of each file in a tar; fields not in `named` are listed but not read."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in members(tar):
            stem, _, field = member.name.rpartition("/")[2].partition(".")
            if not (member.isreg() and stem and field):
                continue
            content = tar.extractfile(member) if field in named else None
            yield member.name.removesuffix(f".{field}"), field, b"" if content is None else content.read()


def _bytes_of(batch: "pd.DataFrame | dict[str, Any]", option: str, field: str) -> list[bytes]:
    """Extract one field of each sample of a batch."""
    if field not in batch:
        raise InputError(f"data.{option}={field!r}: no sample has such a field; name one that every sample has")
    for key, value in zip(batch["__key__"], batch[field], strict=True):
        if not isinstance(value, bytes):  # pandas fills missing fields with NaN
            raise InputError(f"data.{option}={field!r}: no such field in sample {key}; name one that every sample has")
    return list(batch[field])


def _uniform_array(data: bytes, where: str) -> Shaped[np.ndarray, "..."]:
    """Decode one uniform row from a `.npy` field."""
    try:
        stored = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # the header is a Python literal, and parsing one can fail in many ways
        raise InputError(f"{where}: not a plain .npy array ({error}); write it with numpy.save") from error
    return to_uniform(stored[None], where)[0]


def _class_ids(texts: list[bytes], where: str) -> Shaped[np.ndarray, " n"]:
    try:
        labels = np.array([int(text) for text in texts], np.int64)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{where}: a label that is not an integer as text ({error}); store class ids 0, 1, ..."
        ) from error
    return class_ids(labels, len(texts), where)
