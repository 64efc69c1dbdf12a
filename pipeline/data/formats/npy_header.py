"""Headers of .npy arrays that others wrote, by numpy's own parser of literals: nothing in them is executed."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class NpyHeader:
    """Type and shape of an array, and where its numbers begin."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return self.nbytes // self.shape[0] if self.shape and self.shape[0] else 0

    @property
    def nbytes(self) -> int:
        """Size of all numbers."""
        total = self.dtype.itemsize
        for size in self.shape:
            total *= size
        return total


def read_header(file: Any, size: int | None) -> NpyHeader:
    """Read the header at the beginning of an open file.

    Args:
        file: file whose position is at the beginning of the array.
        size: bytes from there to the end; None: unknown.

    Raises:
        ValueError: no .npy array, objects that would have to be unpickled, or another size than the header says.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version in ((2, 0), (3, 0)):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version}")
    except Exception as error:  # the header is a Python literal, and parsing one can fail in many ways
        raise ValueError(f"not a plain .npy array: {error}") from error
    header = NpyHeader(dtype, shape, fortran, file.tell())
    if dtype.hasobject:
        raise ValueError("not a plain array: it holds Python objects, which are never unpickled")
    if any(side < 0 for side in shape) or (size is not None and header.nbytes != size - header.offset):
        raise ValueError(
            f"not a plain .npy array: {header.nbytes:,} bytes by its header, {(size or 0) - header.offset:,} there"
        )
    return header


def decode_array(data: bytes) -> np.ndarray:
    """View the bytes of a .npy array that others wrote as an array.

    Raises:
        ValueError: as `read_header`.
    """
    import io

    header = read_header(io.BytesIO(data), len(data))
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    return np.frombuffer(data, header.dtype, offset=header.offset).reshape(header.shape, order=order)
