"""Arrow columns -> numpy: encoded images, scalars, equally long lists, tensors, labels."""

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.schema import class_ids


def image_bytes(table: pa.Table, named: list[str], where: str) -> list[bytes] | None:
    """Extract encoded images from binary or from Hugging Face's struct of bytes and path; None for a numeric column.

    Raises:
        InputError: rows without bytes.
    """
    column = table.column(named[0])
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if len(named) > 1 or not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return None
    if column.null_count:
        raise InputError(f"{where}: rows without image bytes; store the bytes themselves, not only their paths")
    return column.to_pylist()


def numbers(table: pa.Table, named: list[str], where: str) -> Shaped[np.ndarray, "n *stored"]:
    """Extract rows as stored: one list or tensor column, or scalar columns stacked as float64.

    Raises:
        InputError: columns of another type, nulls, or lists of unequal length.
    """
    fields = [table.schema.field(name) for name in named]
    for field in fields:
        scalar = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        if not scalar and (len(fields) > 1 or not _holds_numbers(field.type)):
            raise InputError(
                f"{where}: {field.name!r} is {field.type}; give image bytes, equally long lists of numbers, tensors, "
                "or scalar columns separated by commas"
            )
        if table.column(field.name).null_count:
            raise InputError(f"{where}: null rows in {field.name!r}; remove or fill them")
    arrays = [table.column(name).combine_chunks() for name in named]
    if _holds_numbers(fields[0].type):
        return _rows_of(arrays[0], _tensor_shape(fields[0]), where)
    return np.stack([array.to_numpy(zero_copy_only=False) for array in arrays], axis=1).astype(np.float64)


def labels(table: pa.Table, name: str) -> Int64[np.ndarray, " n"]:
    """Extract class ids from an integer column.

    Raises:
        InputError: another type, nulls, or negative ids.
    """
    column = table.column(name)
    if not pa.types.is_integer(column.type):
        raise InputError(f"data.label={name!r}: labels of type {column.type}; store class ids 0, 1, 2, ... as integers")
    if column.null_count:
        raise InputError(f"data.label={name!r}: null labels; remove those rows")
    return class_ids(column.to_numpy(), table.num_rows, f"data.label={name!r}")


def _holds_numbers(kind: Any) -> bool:
    """Return whether a type is a list or a tensor of numbers."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    return pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)


def _tensor_shape(field: pa.Field) -> tuple[int, ...] | None:
    """Find the shape of a tensor column's rows; None for plain lists."""
    if isinstance(field.type, pa.BaseExtensionType):
        return tuple(field.type.shape)
    # A process without Ray sees Ray's tensors as lists, but the field keeps what Ray wrote about them.
    metadata = field.metadata or {}
    if metadata.get(b"ARROW:extension:name", b"").startswith(b"ray.data.arrow_tensor"):
        return tuple(json.loads(metadata[b"ARROW:extension:metadata"]))
    return None


def _rows_of(array: Any, shape: tuple[int, ...] | None, where: str) -> Shaped[np.ndarray, "n *stored"]:
    """Convert the entries of a list or tensor array, one row each."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    lengths = pc.unique(pc.list_value_length(array)).to_pylist()
    if len(lengths) > 1:
        raise InputError(f"{where}: rows of {min(lengths)} to {max(lengths)} numbers; bring all to one shape")
    entries = array.flatten()
    if entries.null_count:
        raise InputError(f"{where}: null entries; remove or fill them")
    shape = shape if shape is not None else tuple(lengths)
    assert len(array) * math.prod(shape) == len(entries)
    return entries.to_numpy(zero_copy_only=False).reshape(len(array), *shape)
