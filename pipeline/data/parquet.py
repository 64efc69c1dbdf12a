"""Parquet: checks the files' schema, and extracts numeric columns or encoded images from their batches."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.columns import image_bytes, labels, numbers
from flowpairs.pipeline.data.discover import Location
from flowpairs.pipeline.data.images import decode_image, header_shape
from flowpairs.pipeline.data.schema import Tally, layout, measures, stack, to_uniform
from flowpairs.pipeline.data.spec import DataSpec

if TYPE_CHECKING:
    import ray.data

BATCH_ROWS = 256  # a batch of decoded images of 3 x 256 x 256 is then 50 MB


def survey(location: Location, config: DataConfig) -> DataSpec:
    """Check every file's schema, then stream the named columns; see `flowpairs.pipeline.data.check_data`.

    Of remote files it reads the schemas and row counts, and the first batch of each.
    """
    tally, rows, schema = Tally(), 0, None
    for path in location.files:
        with location.filesystem.open(path, "rb") as raw:
            try:
                file = pq.ParquetFile(raw)
                schema = _agreeing(file.schema_arrow, schema, path, config)
                rows += file.metadata.num_rows
                batches = file.iter_batches(BATCH_ROWS, columns=_wanted(config))
                for batch in islice(batches, None if location.local else 1):
                    _survey_batch(pa.Table.from_batches([batch]), config, path, tally)
            except InputError:
                raise
            except Exception as error:  # damaged files make pyarrow raise more than its own exceptions
                raise InputError(
                    f"data.path={location.path!r}: {path} cannot be read as parquet ({error}); replace it"
                ) from error
    return tally.spec(len(location.files), f"data.path={location.path!r}", rows)


def dataset(location: Location, config: DataConfig, spec: DataSpec) -> "ray.data.Dataset":
    """Build Ray Data's parquet reader, mapped to uniform rows."""
    import ray.data

    # The files have been chosen; Ray's own choice by extension takes what follows a ? for a query.
    tables = ray.data.read_parquet(**location.ray_paths(), partitioning=None, file_extensions=None)
    uniform = partial(_uniform, config=config, shape=spec.shape)
    return tables.select_columns(_wanted(config)).map_batches(uniform, batch_format="pyarrow", batch_size=BATCH_ROWS)


def batches(location: Location, config: DataConfig, spec: DataSpec) -> Iterator[dict[str, np.ndarray]]:
    """Yield the same rows in the same order, read in this process."""
    for path in location.files:
        with location.filesystem.open(path, "rb") as raw:
            for batch in pq.ParquetFile(raw).iter_batches(BATCH_ROWS, columns=_wanted(config)):
                yield _uniform(pa.Table.from_batches([batch]), config, spec.shape)


def _survey_batch(table: pa.Table, config: DataConfig, path: str, tally: Tally) -> None:
    where = f"data.column={config.column!r} of {path}"
    images = image_bytes(table, _named(config), where)
    if images is not None:
        for data in images:
            tally.add(header_shape(data, where), "image", where)
    else:
        stored = numbers(table, _named(config), where)
        to_uniform(stored, where)
        tally.add(*layout(stored.shape[1:], stored.dtype, where), where, rows=len(stored))
    if config.label is not None:
        tally.add_labels(labels(table, config.label))
    _measures(table, config)


def _uniform(table: pa.Table, config: DataConfig, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Convert one batch that Ray Data read to uniform rows."""
    where = f"data.column={config.column!r}"
    images = image_bytes(table, _named(config), where)
    if images is not None:
        x = stack([decode_image(data, where) for data in images], shape, [where] * len(images))
    else:
        x = to_uniform(numbers(table, _named(config), where), where)
    columns = {"x": x, **_measures(table, config)}
    return columns if config.label is None else columns | {"label": labels(table, config.label)}


def _measures(table: pa.Table, config: DataConfig) -> dict[str, np.ndarray]:
    """Extract the numeric columns that accompany the data."""
    out = {}
    for key, name in config.columns().items():
        column, where = table.column(name), f"data.{key}={name!r}"
        if column.null_count:
            raise InputError(f"{where}: null rows; remove or fill them")
        out[key] = measures(column.to_numpy(), table.num_rows, where)
    return out


def _named(config: DataConfig) -> list[str]:
    """List the data's columns: `data.column` may list several scalar ones, separated by commas."""
    return [name.strip() for name in config.column.split(",")]


def _wanted(config: DataConfig) -> list[str]:
    return [*_named(config), *([] if config.label is None else [config.label]), *config.columns().values()]


def _agreeing(schema: pa.Schema, earlier: pa.Schema | None, path: str, config: DataConfig) -> pa.Schema:
    """Return the schema if it has the named columns with the same types as in the previous files."""
    for name in _wanted(config):
        if name not in schema.names:
            others = {"label": config.label, **config.columns()}
            key = next((key for key, other in others.items() if name == other), "column")
            raise InputError(f"data.{key}={name!r}: no such column in {path}; it has {', '.join(schema.names)}")
        if earlier is not None and schema.field(name).type != earlier.field(name).type:
            raise InputError(
                f"data.path={config.path!r}: column {name!r} is {schema.field(name).type} in {path}, "
                f"but {earlier.field(name).type} before; give all files one schema"
            )
    return schema
