"""Streaming over an n x m kernel that is never stored: row tiles, and the threads that run them.

A tile is a few whole rows of the kernel. Tiles have a fixed size and each is computed by one thread, their
contributions are added in a fixed order, and everything between passes runs on one thread, since torch splits its sums
by the number of threads. So every result has the same bits for any number of threads.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from flowpairs.pipeline.ot.tiles.precision import ieee_products

CPU_SMALL, CPU_LARGE = 2**20, 2**22  # entries of a tile: enough to hide a call's cost, few enough for the cache
CPU_ROWS = (16, 128, 512)  # fewer than 16 starve the matrix product, 128 feed it, 512 are plenty
GPU_ENTRIES = 2**27
CPU_SECTIONS, GPU_SECTIONS = 16, 64  # largest numbers of sections, hence of processes that can share a block
FINE_ROWS, FINE_ENTRIES = 2**13, 2**33  # of a section where a GPU's block has more of these than GPU_SECTIONS
CPU_GROUPS, GPU_GROUPS = 4, 1  # largest numbers per section: runs of tiles that one thread adds up
COLUMN_GROUPS, COLUMNS = 64, 16  # largest number of groups of columns, and least columns of one

TileRun = list[slice]  # consecutive tiles, as row numbers

_here = threading.local()  # the scope that this thread is in

Part = TypeVar("Part")
Result = TypeVar("Result")


def tile_rows(m: int, device: torch.device) -> int:
    """Compute how many rows of m entries make a tile."""
    if device.type != "cpu":
        return max(1, GPU_ENTRIES // m)
    least, good, most = CPU_ROWS
    return max(least, min(good, CPU_LARGE // m), min(most, CPU_SMALL // m))


def sections(n: int, m: int, device: torch.device) -> list[slice]:
    """Cut n rows of m entries into consecutive sections of whole tiles, similar in size."""
    return _cut(slice(0, n), tile_rows(m, device), CPU_SECTIONS if device.type == "cpu" else gpu_sections(n, m))


def gpu_sections(n: int, m: int) -> int:
    """Compute the largest number of sections of n rows of m entries on a GPU: finer ones cost memory and time."""
    return max(GPU_SECTIONS, min(n // FINE_ROWS, n * m // FINE_ENTRIES))


def tile_runs(section: slice, m: int, device: torch.device) -> list[TileRun]:
    """Cut a section into consecutive groups of tiles."""
    size, most = tile_rows(m, device), CPU_GROUPS if device.type == "cpu" else GPU_GROUPS
    return [
        [slice(start, min(run.stop, start + size)) for start in range(run.start, run.stop, size)]
        for run in _cut(section, size, most)
    ]


def column_groups(m: int) -> list[slice]:
    """Cut m columns into consecutive groups of similar size, for which a pass measures each row's mass apart."""
    count = max(1, min(COLUMN_GROUPS, m // COLUMNS))
    width = m // count
    return [slice(k * width, m if k == count - 1 else (k + 1) * width) for k in range(count)]


def group_of_columns(cuts: list[slice], device: torch.device) -> Tensor:
    """Return the number of each column's group."""
    widths = torch.tensor([cut.stop - cut.start for cut in cuts], device=device)
    return torch.arange(len(cuts), device=device).repeat_interleave(widths)


def _cut(rows: slice, size: int, most: int) -> list[slice]:
    """Cut rows into at most `most` runs of whole tiles of `size` rows."""
    tiles = -(-(rows.stop - rows.start) // size)
    count = min(most, tiles)
    cuts = [min(rows.stop, rows.start + size * (tiles * k // count)) for k in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(cuts)]


class Workers:
    """A scope in which tiles run on as many threads as torch had, and all else on one; a GPU needs no threads.

    Products in it are float32's own (pipeline/ot/tiles/precision.py).

    torch's number of threads is set per calling thread: each worker takes one, and the caller's number is restored at
    the end. A scope inside another one is the outer one, so whatever needs the same bits on any number of threads opens
    one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> "Workers":
        self._outer: Workers | None = getattr(_here, "workers", None)
        if self._outer is not None:
            self.threads, self._pool, self._rooms = self._outer.threads, self._outer._pool, self._outer._rooms
            return self
        self._precision = ieee_products()
        self._precision.__enter__()
        self.threads = torch.get_num_threads()
        self._rooms = threading.local()
        self._pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
        torch.set_num_threads(1)
        _here.workers = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outer is None:
            _here.workers = None
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self.threads)
            self._precision.__exit__(None, None, None)

    def room(self, number: int, rows: int, columns: int, like: Callable[[int, int], Tensor]) -> Tensor:
        """Return a buffer [rows, columns] of this thread, always the same memory: fresh pages cost as much as a sum."""
        buffers = self._rooms.__dict__.setdefault("buffers", {})
        found = buffers.get(number)
        if found is None or found.numel() < rows * columns or found.dtype != like(0, 0).dtype:
            buffers[number] = found = like(rows, columns).view(-1)
        return found[: rows * columns].view(rows, columns)

    def map(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
        """Yield `work(part)` for every part, in order."""
        return self._pool.map(work, parts) if self.device.type == "cpu" and len(parts) > 1 else map(work, parts)
