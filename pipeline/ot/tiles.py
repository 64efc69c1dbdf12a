"""Streaming over an n x m kernel that is never stored: row tiles, and the threads that run them.

A tile is a few whole rows of the kernel. Tiles have a fixed size and each is computed by one thread, and what they
contribute is added up in a fixed order, so every result has the same bits whatever the number of threads.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import torch

CPU_SMALL, CPU_LARGE = 2**19, 2**22  # entries of a tile: enough to hide a call's cost, few enough for the cache
CPU_ROWS = (16, 64, 512)  # fewer than 16 starve the matrix product, up to 64 help it, 512 are plenty
GPU_ENTRIES = 2**27
GROUPS = 32  # runs of tiles whose column sums are accumulated together; bounds both the threads and the memory

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


def run(work: Callable[[list[slice]], Result], parts: list[list[slice]], device: torch.device) -> Iterator[Result]:
    """Yield `work(group)` for every group in order, on as many threads as torch has on a CPU, else one by one.

    torch's own threads are per calling thread, so each worker takes one and the caller's number is put back.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        yield from map(work, parts)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(work, parts)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
