"""`Rows`: N data of one shape, read by id.

Parts are plain .npy arrays, mapped into memory where they are files. Ids from N on are mirror images: id + N is the
datum mirrored left-right, along the last axis. Rows keep the dtype in which the data came: uint8 images are scaled to
x / 127.5 - 1 only when they are used.
"""

import mmap
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import decode_npy
from flowpairs.pipeline.base.paths import AnyPath, refuse_special
from flowpairs.pipeline.data.rows.local_copy import local_copy
from flowpairs.pipeline.data.schema import kept, scale_into
from flowpairs.pipeline.data.spec import Kept

# Pages of a mapped file count as memory of a process until it gives them back: a row that is read may bring in a folio
# of the cache of up to 2 MiB around it.
AROUND, HELD = 2**21, 2**27
REMEDY = "run `flowpairs verify`"
CHUNK_BYTES = 2**25  # of float32 rows that are converted at a time


class Rows:
    """N data of one shape, in parts that are arrays or .npy files.

    Args:
        parts: arrays [r, *shape], or paths of .npy files of such arrays.
        counts: number of rows of each part.
        shape: shape of a datum.
        dtype: dtype of the parts.
        hashes: SHA-256 of each file; needed for files at a URL, of which one local copy a node is made.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        counts: Sequence[int],
        shape: tuple[int, ...],
        dtype: Kept,
        hashes: Sequence[str] = (),
    ) -> None:
        self.parts, self.shape, self.dtype, self.hashes = tuple(parts), tuple(shape), dtype, tuple(hashes)
        self.edges = np.cumsum([0, *counts])
        self._taken = 0

    @classmethod
    def of(cls, x: Shaped[np.ndarray, "n *shape"]) -> "Rows":
        """Make rows of an array in memory."""
        return cls([np.ascontiguousarray(x)], [len(x)], x.shape[1:], kept(x.dtype))

    def __len__(self) -> int:
        return int(self.edges[-1])

    @property
    def dim(self) -> int:
        """Numbers per row."""
        return int(np.prod(self.shape))

    def counts(self) -> list[int]:
        """List the number of rows of each part."""
        return np.diff(self.edges).tolist()

    def take(
        self, ids: Int64[np.ndarray, " k"], out: Shaped[np.ndarray, "k ..."] | None = None
    ) -> Shaped[np.ndarray, "k ..."]:
        """Copy the rows of some ids, as they are stored.

        Args:
            ids: ids of data, or from N on of mirror images.
            out: array to copy to; None: a new one.

        Raises:
            InputError: a part cannot be read, or holds other rows than it should.
        """
        out = np.empty((len(ids), *self.shape), self.dtype) if out is None else out
        rows, mirrored = ids % len(self), ids >= len(self)
        if len(self.parts) == 1:
            np.take(self._arrays[0], rows, 0, out=out, mode="clip")
        else:
            owners = np.searchsorted(self.edges, rows, "right") - 1
            for part in np.unique(owners).tolist():
                mine = owners == part
                out[mine] = self._arrays[part][rows[mine] - self.edges[part]]
        if mirrored.any():
            out[mirrored] = out[mirrored][..., ::-1]
        self._give_back(len(ids))
        return out

    def read(self, ids: Int64[np.ndarray, " k"]) -> Float32[np.ndarray, "k ..."]:
        """Copy the rows of some ids in model space: uint8 images scaled to [-1, 1], floats as they are."""
        return in_model_space(self.take(ids))

    def whole(self) -> Shaped[np.ndarray, "n ..."]:
        """Return all rows as they are stored: the array or the mapped file itself where there is one part."""
        return self._arrays[0] if len(self._arrays) == 1 else np.concatenate(self._arrays)

    def chunks(self, ids: Int64[np.ndarray, " k"], most: int = CHUNK_BYTES) -> Iterator[Int64[np.ndarray, " c"]]:
        """Yield consecutive stretches of ids, each of at most about so many bytes of float32 rows."""
        step = max(1, most // (4 * self.dim))
        for start in range(0, len(ids), step):
            yield ids[start : start + step]

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        """The parts as arrays; files are mapped."""
        self._maps: list[mmap.mmap] = []
        return [self._open(number) for number in range(len(self.parts))]

    def _open(self, number: int) -> np.ndarray:
        """Return a part as an array."""
        part, count = self.parts[number], int(self.edges[number + 1] - self.edges[number])
        if not isinstance(part, np.ndarray):
            try:
                part = self._map(number)
            except InputError:
                raise
            except (OSError, ValueError) as error:
                raise InputError(f"{self.parts[number]}: cannot be read as rows ({error}); {REMEDY}") from error
        if part.dtype != self.dtype or part.shape != (count, *self.shape):
            expected = f"{[count, *self.shape]} of {self.dtype}"
            raise InputError(f"{self.parts[number]}: is {list(part.shape)} of {part.dtype}, not {expected}; {REMEDY}")
        return part

    def _map(self, number: int) -> np.ndarray:
        """Map a part's file, or this node's copy of it."""
        path: AnyPath = self.parts[number]
        if self.hashes:
            path = local_copy(path, self.hashes[number])
        refuse_special(path)
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants what it could write to
        self._maps.append(mapped)
        return decode_npy(mapped)

    def _give_back(self, rows: int) -> None:
        """Give mapped pages back from time to time; they stay in the system's cache."""
        if sum(map(len, self._maps)) <= HELD:
            return
        self._taken += rows * max(AROUND, self.dim * np.dtype(self.dtype).itemsize)
        if self._taken >= HELD:
            self._taken = 0
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_arrays", "_maps", "_taken")
        return {name: value for name, value in vars(self).items() if name not in left_out} | {"_taken": 0}


def in_model_space(x: Shaped[np.ndarray, "n *shape"]) -> Float32[np.ndarray, "n *shape"]:
    """Convert stored rows to model space: uint8 to x / 127.5 - 1, floats as they are."""
    if x.dtype == np.float32:
        return x
    out = np.empty(x.shape, np.float32)
    scale_into(out, x)
    return out
