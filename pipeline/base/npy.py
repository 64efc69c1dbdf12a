""".npy members of a record: numpy writes them; a pattern reads their header, so that nothing in it is parsed as Python.

`numpy.load` would copy, and would reserve whatever memory a forged header asks for; numpy's readers of headers alone
take seven times as long and fail in ways of Python's own parser (docs/dependencies.md).
"""

import io
import math
import mmap
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from flowpairs.pipeline.base.environment import available_memory
from flowpairs.pipeline.base.paths import AnyPath, refuse_special
from flowpairs.pipeline.base.printing import print_line

_MAGIC = b"\x93NUMPY\x01\x00"
_SHAPE = rb"((?:\d{1,18}, ?)*\d{0,18})"
_HEADER = re.compile(rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': False, 'shape': \(" + _SHAPE + rb"\), ?\} *\n")


def plain_array(loaded: Any) -> np.ndarray:
    """Return what `numpy.load` gave if it is an array: for lack of a header it gives bytes, and for a zip an archive.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(loaded, np.ndarray):
        raise ValueError(f"no array, but {type(loaded).__name__}")
    return loaded


def encode_npy(values: np.ndarray) -> bytes:
    """Encode an array as the bytes of a .npy file, format 1.0."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(values, order="C"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def load_npy(path: AnyPath) -> np.ndarray:
    """Load the array of a .npy file, read-only and mapped into memory.

    A file at a URL is first copied into local temporary storage, which is freed together with the array.

    Raises:
        OSError: the file cannot be read.
        ValueError: as `decode_npy`.
    """
    refuse_special(path)
    with path.open("rb") as source:
        if isinstance(path, Path):
            return decode_npy(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
        with tempfile.TemporaryFile() as file:
            print_line(f"{path}: copying {path.stat().st_size:,} bytes to {tempfile.gettempdir()}", sys.stderr)
            shutil.copyfileobj(source, file, 2**22)
            file.flush()
            return decode_npy(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def load_npz(file: Any) -> dict[str, np.ndarray]:
    """Load the arrays of an .npz file by name.

    Raises:
        ValueError: damaged, not arrays alone, or more than the free memory: a few kilobytes of zip may stand for
            terabytes.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > (free := available_memory()):
            raise ValueError(f"{size:,} bytes of arrays, and {free:,} bytes of memory are free")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: plain_array(arrays[name]) for name in arrays.files}
    except (OSError, ValueError):
        raise
    except Exception as error:  # of zip, of its compressors, or of a header that claims more than its member has
        raise ValueError(str(error) or type(error).__name__) from error


def npy_length(head: bytes) -> int:
    """Read the size of the first axis from the first bytes of a .npy file.

    Raises:
        ValueError: there is no first axis.
    """
    _, shape, _ = _header(head)
    if not shape:
        raise ValueError("a .npy array without axes")
    return shape[0]


def decode_npy(data: bytes | mmap.mmap) -> np.ndarray:
    """View the bytes of a .npy file as an array, read-only and without a copy.

    Raises:
        ValueError: not a little-endian array of numbers in C order, format 1.0, or of another length than it says.
    """
    dtype, shape, body = _header(data)
    if math.prod(shape) * dtype.itemsize != len(data) - body:
        raise ValueError(f"{len(data) - body} bytes, where its header promises {list(shape)} of {dtype}")
    return np.frombuffer(data, dtype, offset=body).reshape(shape)


def _header(data: bytes | mmap.mmap) -> tuple[np.dtype, tuple[int, ...], int]:
    """Read the type and the shape of the array, and the offset of its numbers."""
    start = len(_MAGIC) + 2
    body = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    header = _HEADER.fullmatch(data[start:body])
    if data[: len(_MAGIC)] != _MAGIC or header is None:
        raise ValueError("not a plain .npy array of format 1.0")
    try:
        dtype = np.dtype(header[1].decode())
    except TypeError as error:
        raise ValueError(f"not an array of numbers ({error})") from error
    if dtype.kind not in "iuf":
        raise ValueError(f"an array of {dtype}, not of numbers")
    return dtype, tuple(int(size) for size in header[2].split(b",") if size.strip()), body
