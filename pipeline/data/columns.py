"""Arrow columns -> rows as they are stored: encoded images, scalars, lists, tensors, labels."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.images import Unreadable

Row = bytes | Shaped[np.ndarray, "..."] | Unreadable


def holds_images(kind: Any) -> bool:
    """Return whether a type is bytes, or Hugging Face's struct of bytes and path."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    if isinstance(kind, pa.BaseExtensionType):
        return False
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def holds_lists(kind: Any) -> bool:
    """Return whether a type is a list of numbers, of lists of numbers and so on, or a tensor."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth > 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind))


def holds_scalars(kind: Any) -> bool:
    """Return whether a type is a number."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def image_rows(column: Any) -> list[Row]:
    """Extract encoded images."""
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    without = Unreadable("no image bytes; store the bytes themselves, not only their paths")
    return [without if data is None else data for data in column.to_pylist()]


def stored_rows(table: pa.Table, named: list[str], where: str) -> tuple[np.ndarray | list[Row], Bool[np.ndarray, " n"]]:
    """Extract rows as stored: one list or tensor column, or scalar columns stacked as float64.

    Returns:
        An array [n, *stored], or a list where rows have several shapes or null entries; and which rows are null.

    Raises:
        InputError: columns of another type.
    """
    for name in named:
        kind = table.schema.field(name).type
        if not (holds_scalars(kind) or (len(named) == 1 and holds_lists(kind))):
            raise InputError(
                f"{where}: {name!r} is {kind}; give image bytes, equally long lists of numbers, tensors, "
                "or scalar columns separated by commas"
            )
    arrays = [_whole(table.column(name)) for name in named]
    missing = np.zeros(len(table), bool)
    for array in arrays:
        missing |= array.is_null().to_numpy(zero_copy_only=False)
    if holds_lists(arrays[0].type):
        return _list_rows(arrays[0], _tensor_shape(table.schema.field(named[0])), missing), missing
    numbers_of = [pc.fill_null(array, 0) if array.null_count else array for array in arrays]
    return np.stack([a.to_numpy(zero_copy_only=False) for a in numbers_of], axis=1).astype(np.float64), missing


def numbers(table: pa.Table, named: list[str], where: str) -> Shaped[np.ndarray, "n *stored"]:
    """Extract rows that all have one shape and no nulls, as `stored_rows` does.

    Raises:
        InputError: columns of another type, nulls, or lists of unequal length.
    """
    rows, missing = stored_rows(table, named, where)
    if missing.any():
        raise InputError(f"{where}: null rows in {', '.join(named)}; remove or fill them")
    if isinstance(rows, list):
        unreadable = [row for row in rows if isinstance(row, Unreadable)]
        if unreadable:
            raise InputError(f"{where}: {unreadable[0]}")
        lengths = sorted({row.shape[0] for row in rows if isinstance(row, np.ndarray)})
        raise InputError(f"{where}: rows of {lengths[0]} to {lengths[-1]} numbers; bring all to one shape")
    return rows


def stored_labels(column: Any, where: str) -> Any:
    """Extract labels as an array or a list of Python values, None where they are null.

    Raises:
        InputError: a type that holds no labels.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if _is_list(kind):  # [n, 1]
        return numbers(pa.table({"label": column}), ["label"], where)
    if not (text or pa.types.is_boolean(kind) or holds_scalars(kind) or pa.types.is_null(kind)):
        raise InputError(f"{where}: labels of type {kind}; store class ids 0, 1, 2, ... or names")
    if text or column.null_count:
        return column.to_pylist()
    return column.to_numpy()


def class_label(schema: pa.Schema, name: str) -> tuple[str, ...] | None:
    """Read the names of the classes that Hugging Face's features give for a column; None without."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[name]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        return None
    return tuple(names)


def _is_list(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _whole(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _tensor_shape(field: pa.Field) -> tuple[int, ...] | None:
    """Find the shape of a tensor column's rows; None for lists, which say it themselves."""
    if isinstance(field.type, pa.FixedShapeTensorType):
        return tuple(field.type.shape)
    # A process without Ray sees Ray's tensors as lists, but the field keeps what Ray wrote about them.
    metadata = field.metadata or {}
    if metadata.get(b"ARROW:extension:name", b"").startswith(b"ray.data.arrow_tensor"):
        return tuple(json.loads(metadata[b"ARROW:extension:metadata"]))
    if getattr(field.type, "extension_name", "").startswith("ray.data.arrow_tensor"):
        return tuple(field.type.shape)
    return None


def _list_rows(array: Any, shape: tuple[int, ...] | None, missing: np.ndarray) -> np.ndarray | list[Row]:
    """Convert the entries of a list or tensor array, one row each; null rows become zeros."""
    if isinstance(array, pa.FixedShapeTensorArray) and array.type.permutation is not None and not missing.any():
        return array.to_numpy_ndarray()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    valid = array.drop_null() if missing.any() else array
    if not len(valid):
        return [Unreadable("null") for _ in array]
    inner, found = valid, [len(valid)]
    while _is_list(inner.type):
        lengths = pc.unique(pc.list_value_length(inner)).to_pylist()
        if len(lengths) > 1 or inner.null_count:
            return [_one_row(scalar) for scalar in array]
        found.append(lengths[0] if lengths else 0)
        inner = inner.flatten()
    if inner.null_count:
        return [_one_row(scalar) for scalar in array]
    stored = (len(valid), *(shape if shape is not None else found[1:]))
    if np.prod(stored, dtype=object) != len(inner):
        return [Unreadable(f"{len(inner) // max(1, len(valid))} numbers for a tensor of {list(stored[1:])}")] * len(
            array
        )
    values = inner.to_numpy(zero_copy_only=False).reshape(stored)
    if not missing.any():
        return values
    out = np.zeros((len(array), *stored[1:]), values.dtype)
    out[~missing] = values
    return out


def _one_row(scalar: Any) -> Row:
    """Convert one row whose shape may differ from others'."""
    if not scalar.is_valid:
        return Unreadable("null")
    inner, shape = scalar.values, [len(scalar.values)]
    while _is_list(inner.type):
        lengths = pc.unique(pc.list_value_length(inner)).to_pylist()
        if len(lengths) != 1 or inner.null_count:
            return Unreadable("lists of several lengths, or null, in one row")
        shape.append(lengths[0])
        inner = inner.flatten()
    if inner.null_count:
        return Unreadable("null entries")
    return inner.to_numpy(zero_copy_only=False).reshape(shape)
