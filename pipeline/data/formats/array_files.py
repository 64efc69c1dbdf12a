"""Data sets that are one array, beside which others hold labels and columns: .npz, .npy, .pt, .safetensors, digits."""

import importlib.util
import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flowpairs.pipeline.base.environment import require
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.discover import pointer_reason
from flowpairs.pipeline.data.formats.reader import DEFAULT, Chunk, Reader
from flowpairs.pipeline.data.formats.stored_arrays import (
    WHOLE,
    InMemory,
    InRange,
    StoredArray,
    mapped,
    npy_array,
    npz_arrays,
)
from flowpairs.pipeline.data.schema import layout, measures

Arrays = Mapping[str, StoredArray | ValueError]
UNNAMED = ""  # the array of a file that holds one without a name
# Safetensors' names of types that numpy has; BF16 is the upper half of a float32.
TENSOR_TYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"},
    **{"U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "?"},
}
LARGEST_HEADER = 100_000_000  # bytes, safetensors' own limit


class ArrayReader(Reader):
    """Files that hold arrays by name."""

    whole_labels = True
    kind: str
    remedy = "replace it"

    @abstractmethod
    def arrays(self, file: str, opened: Any) -> Arrays:
        """Open the arrays of a file; of one that cannot be used, why."""

    def find_columns(self, files: Sequence[str]) -> tuple[str, ...]:
        """Find the array that holds the data."""
        chosen: tuple[str, ...] = ()
        for file in files:
            with self._arrays(file) as arrays:
                if list(arrays) == [UNNAMED]:
                    self._refuse_names()
                    name = UNNAMED
                else:
                    name = self._only([name for name in arrays if _can_be_data(arrays[name])], list(arrays), self._what)
                if chosen not in ((), (name,)):
                    raise InputError(
                        f"data.path={self.config.path!r}: {file} holds its data in {name!r}, others in {chosen[0]!r}; "
                        "name data.column"
                    )
                chosen = (name,)
        return chosen

    def count(self, file: str) -> int:
        """Read the array's header."""
        with self._arrays(file) as arrays:
            return self._one(arrays, "column", self.columns[0]).shape[0]

    def sequential(self, files: Sequence[str]) -> bool:
        """Return whether an array is compressed."""
        for file in files:
            with self._arrays(file) as arrays:
                if self._one(arrays, "column", self.columns[0]).sequential:
                    return True
        return False

    def chunks(self, file: str, start: int, stop: int | None, rows: int) -> Iterator[Chunk]:
        """Yield rows of the array."""
        with self._arrays(file) as arrays:
            x = self._one(arrays, "column", self.columns[0])
            total = x.shape[0]
            side = {key: self._side(arrays, key, name, total) for key, name in self._sides().items()}
            for key, name in self.config.columns().items():
                side[key] = measures(side[key], total, f"data.{key}={name!r}")
            for first in range(start, total if stop is None else min(stop, total), rows):
                end = min(first + rows, total if stop is None else stop)
                parts = {key: column[first:end] for key, column in side.items()}
                label = parts.pop("label", None)
                yield Chunk(file, first, x.rows(first, end), label, parts)

    def labels(self, file: str) -> Iterator[tuple[Any, int]]:
        """Yield the array of labels."""
        with self._arrays(file) as arrays:
            assert self.config.label is not None
            total = self._one(arrays, "column", self.columns[0]).shape[0]
            yield self._side(arrays, "label", self.config.label, total), total

    @property
    def _what(self) -> str:
        return "array; the file has"

    def _sides(self) -> dict[str, str]:
        return {**({} if self.config.label is None else {"label": self.config.label}), **self.config.columns()}

    def _refuse_names(self) -> None:
        """Refuse names where the file holds one array without any."""
        named = {"column": None if self.config.column == DEFAULT else self.config.column, **self._sides()}
        for key, name in named.items():
            if name is not None:
                raise InputError(
                    f"data.{key}={name!r}: {self.config.path!r} holds one array, without names; leave data.{key} "
                    "out, or write a .npz of several"
                )

    @contextmanager
    def _arrays(self, file: str) -> Iterator[Arrays]:
        with self._faults(file, self.kind, self.remedy), self._open(file) as opened:
            arrays = self.arrays(file, opened)
            try:
                yield arrays
            finally:
                for array in arrays.values():
                    if isinstance(array, StoredArray):
                        array.close()

    def _one(self, arrays: Arrays, key: str, name: str) -> StoredArray:
        """Choose an array by its name."""
        where = f"data.{key}={name!r}" if name else f"data.path={self.config.path!r}"
        if name not in arrays:
            raise InputError(f"{where}: no such {self._what} {', '.join(arrays) or 'none'}")
        array = arrays[name]
        if isinstance(array, ValueError):
            raise InputError(f"{where}: {array}; save it as a plain array of numbers")
        if not array.shape or array.shape[0] == 0:
            raise InputError(f"{where}: no rows; give data with at least one")
        return array

    def _side(self, arrays: Arrays, key: str, name: str, total: int) -> np.ndarray:
        """Read an array that goes with the data whole."""
        array = self._one(arrays, key, name)
        if array.shape[0] != total:
            what = "labels" if key == "label" else "an array"
            raise InputError(
                f"data.{key}={name!r}: {what} of shape {list(array.shape)} for {total} rows; give one a row"
            )
        size = array.dtype.itemsize * int(np.prod(array.shape, dtype=object))
        if size > WHOLE:
            raise InputError(f"data.{key}={name!r}: {size:,} bytes for {total:,} rows; give one number or name a row")
        return array.rows(0, total)


class NpzReader(ArrayReader):
    """Archives that numpy.savez wrote."""

    kind, remedy = "a .npz of plain arrays", "write it with numpy.savez"

    def arrays(self, file: str, opened: Any) -> Arrays:
        """Open the archive's arrays."""
        head = opened.read(6)
        opened.seek(0)
        if head == b"\x93NUMPY":
            raise InputError(f"data.path={self.config.path!r}: {file} is a single .npy array; name it .npy")
        return npz_arrays(self.site, file, opened)


class NpyReader(ArrayReader):
    """One .npy file whose first axis counts the data."""

    kind, remedy = ".npy", "write it with numpy.save"

    def arrays(self, file: str, opened: Any) -> Arrays:
        """Open the array."""
        return {UNNAMED: npy_array(self.site, file, opened, _size(opened))}


class TensorReader(ArrayReader):
    """Tensors that torch.save or safetensors wrote: one, or several by name."""

    kind = "tensors"

    @property
    def _what(self) -> str:
        return "tensor; the file has"

    def arrays(self, file: str, opened: Any) -> Arrays:
        """Open the file's tensors."""
        if file.lower().endswith(".safetensors"):
            return self._safetensors(file, opened)
        return self._torch(file, opened)

    def _safetensors(self, file: str, opened: Any) -> Arrays:
        size = _size(opened)
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(size - 8, LARGEST_HEADER):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        out: dict[str, StoredArray | ValueError] = {}
        for name, entry in json.loads(opened.read(length)).items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            kind, shape = entry["dtype"], tuple(entry["shape"])
            dtype = (
                np.dtype("<u2") if kind == "BF16" else np.dtype(TENSOR_TYPES[kind]) if kind in TENSOR_TYPES else None
            )
            if dtype is None:
                out[name] = ValueError(f"a tensor of {kind}")
                continue
            count = dtype.itemsize
            for side in shape:
                count *= side
            if not 0 <= begin <= end <= size - 8 - length or end - begin != count or min((*shape, 0)) < 0:
                raise ValueError(f"{name!r} is {end - begin:,} bytes for {list(shape)} of {kind}")
            offset = 8 + length + begin
            array = mapped(file, dtype, shape, offset) if self.site.local else InRange(opened, dtype, shape, offset)
            out[name] = _Halves(array) if kind == "BF16" else array
        return out

    def _torch(self, file: str, opened: Any) -> Arrays:
        import torch

        head = opened.read(64)
        opened.seek(0)
        if (reason := pointer_reason(head)) is not None:
            raise ValueError(reason)
        try:
            loaded = (
                torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                if self.site.local and head[:2] == b"PK"
                else torch.load(opened, map_location="cpu", weights_only=True)
            )
        except Exception as error:
            first = str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__
            raise InputError(
                f"data.path={self.config.path!r}: {file} is not a file of tensors alone ({first}), and nothing else is "
                "unpickled; write tensors with torch.save, or safetensors"
            ) from error
        if isinstance(loaded, torch.Tensor):
            loaded = {UNNAMED: loaded}
        if isinstance(loaded, list | tuple):
            loaded = {str(number): value for number, value in enumerate(loaded)}
        if not isinstance(loaded, Mapping):
            raise ValueError(f"it holds {type(loaded).__name__}, no tensor")
        return {
            str(name): _Tensor(value) if _is_plain(value) else ValueError(_not_plain(value))
            for name, value in loaded.items()
        }


class DigitsReader(ArrayReader):
    """The 1,797 digits that scikit-learn embeds, scaled from 0 to 16 to [-1, 1]; they always have labels."""

    has_columns = False
    kind = "digits"

    @property
    def labelled(self) -> bool:
        """Return True."""
        return True

    def arrays(self, file: str, opened: Any) -> Arrays:
        """Read the table that scikit-learn installs."""
        require("data.path='digits'", "sklearn")
        package = importlib.util.find_spec("sklearn")  # not imported, which takes longer than all the rest of reading
        assert package is not None
        assert package.origin is not None
        table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
        x = (table[:, :-1] / 8 - 1).astype(np.float32).reshape(-1, 1, 8, 8)
        return {"image": InMemory(x), "label": InMemory(table[:, -1].astype(np.int64))}

    def find_columns(self, files: Sequence[str]) -> tuple[str, ...]:
        """Name the array."""
        return ("image",)

    def labels(self, file: str) -> Iterator[tuple[Any, int]]:
        """Yield the labels."""
        with self._arrays(file) as arrays:
            yield self._side(arrays, "label", "label", 1797), 1797

    def _sides(self) -> dict[str, str]:
        return {"label": "label"}

    def _open(self, file: str) -> Any:
        import io

        return io.BytesIO()


class _Halves(StoredArray):
    """bfloat16, which numpy lacks: the upper halves of float32."""

    def __init__(self, halves: StoredArray) -> None:
        self.halves, self.shape, self.dtype = halves, halves.shape, np.dtype(np.float32)

    def rows(self, start: int, stop: int) -> np.ndarray:
        return (self.halves.rows(start, stop).astype(np.uint32) << 16).view(np.float32)


class _Tensor(StoredArray):
    """A tensor of torch."""

    def __init__(self, tensor: Any) -> None:
        import torch

        self.tensor, self.shape = tensor, tuple(tensor.shape)
        narrow = tensor.dtype == torch.bfloat16 or "float8" in str(tensor.dtype)
        self.tensor_dtype = torch.float32 if narrow else tensor.dtype
        self.dtype = torch.empty(0, dtype=self.tensor_dtype).numpy().dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.tensor[start:stop].detach().to(self.tensor_dtype).contiguous().numpy()


def _is_plain(value: Any) -> bool:
    """Return whether a value is a tensor of numbers that are all stored: an expanded one may have any size."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_complex() or value.is_quantized)
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _not_plain(value: Any) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        return "a sparse, complex, quantised or expanded tensor; call contiguous() or to_dense() before saving"
    return f"no tensor, but {type(value).__name__}"


def _can_be_data(array: StoredArray | ValueError) -> bool:
    if isinstance(array, ValueError) or len(array.shape) < 2:
        return False
    try:
        layout(array.shape[1:], array.dtype, "")
    except InputError:
        return False
    return True


def _size(opened: Any) -> int:
    opened.seek(0, os.SEEK_END)
    size = opened.tell()
    opened.seek(0)
    return size
