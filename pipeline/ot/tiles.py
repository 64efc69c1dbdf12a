"""Streaming over an n x m kernel that is never stored: row tiles, and the threads that run them.

A tile is a few whole rows of the kernel. Tiles have a fixed size and each is computed by one thread, what they
contribute is added up in a fixed order, and everything between passes runs on one thread, since torch splits its sums
by the number of threads. So every result has the same bits whatever that number is.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import TypeVar

import torch

CPU_SMALL, CPU_LARGE = 2**19, 2**22  # entries of a tile: enough to hide a call's cost, few enough for the cache
CPU_ROWS = (16, 64, 512)  # fewer than 16 starve the matrix product, 64 feed it, 512 are plenty
GPU_ENTRIES = 2**27
GROUPS = 32  # runs of tiles whose column sums are accumulated together; bounds both the threads and the memory

Part = TypeVar("Part")
Result = TypeVar("Result")


def tile_rows(m: int, device: torch.device) -> int:
    """How many rows of m entries make a tile."""
    if device.type != "cpu":
        return max(1, GPU_ENTRIES // m)
    least, good, most = CPU_ROWS
    return max(least, min(good, CPU_LARGE // m), min(most, CPU_SMALL // m))


def groups(n: int, m: int, device: torch.device) -> list[list[slice]]:
    """Split n rows of m entries into tiles, and the tiles into at most GROUPS consecutive groups."""
    size = tile_rows(m, device)
    tiles = [slice(start, min(n, start + size)) for start in range(0, n, size)]
    count = min(GROUPS, len(tiles))
    cuts = [len(tiles) * k // count for k in range(count + 1)]
    return [tiles[low:high] for low, high in pairwise(cuts)]


class Workers:
    """A scope in which tiles run on as many threads as torch had, and all else on one; a GPU needs no threads.

    torch's number of threads is per calling thread: each worker takes one, and the caller's is put back at the end.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> "Workers":
        self.threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
        torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.threads)

    def run(self, work: Callable[[list[slice]], Result], n: int, m: int) -> Iterator[Result]:
        """Yield `work(tiles)` for every group of tiles of an n x m kernel, in order."""
        return self.map(work, groups(n, m, self.device))

    def map(self, work: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
        """Yield `work(part)` for every part, in order."""
        return self._pool.map(work, parts) if self.device.type == "cpu" else map(work, parts)
