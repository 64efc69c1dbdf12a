"""Work done by teams: of real processes, this one the first of each, and of threads, of which there may be many."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from flowpairs.pipeline.cluster.process_group import ProcessTeam, open_store
from flowpairs.pipeline.ot.tiles.partition import Team

Work = Callable[[Team], Any]


def in_teams(work: Work, sizes: Sequence[int], directory: Path) -> dict[int, list[Any]]:
    """What every member of a team of each size found, by rank.

    Args:
        work: of a member; a function of a module, its result something that torch saves as tensors and numbers.
        sizes: of the teams, one after the other.
        directory: an empty one.
    """
    stores = {size: open_store("127.0.0.1", size) for size in sizes}
    ports = {size: port for size, (_, port) in stores.items()}
    children = processes.spawn(_child, (work, ports, directory), nprocs=max(sizes) - 1, join=False)
    try:
        _member(0, work, ports, directory)
    finally:
        while not children.join():
            pass
    return {size: [torch.load(directory / f"{size}-{rank}.pt") for rank in range(size)] for size in sizes}


def _child(number: int, work: Work, ports: dict[int, int], directory: Path) -> None:
    _member(number + 1, work, ports, directory)


def _member(rank: int, work: Work, ports: dict[int, int], directory: Path) -> None:
    for size, port in ports.items():
        if rank < size:
            torch.save(work(ProcessTeam.join("127.0.0.1", port, rank, size, "cpu")), directory / f"{size}-{rank}.pt")
            dist.destroy_process_group()


class ThreadTeam:
    """A `Team` of threads of this process, which sums in the order of its members.

    Args:
        rank: this member's number.
        parts: room for a tensor of each member, one list for all.
        barrier: where all of them meet.
    """

    def __init__(self, rank: int, parts: list[torch.Tensor], barrier: Barrier) -> None:
        self.rank, self.size, self.parts, self.barrier = rank, len(parts), parts, barrier

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.parts[self.rank] = values.clone()
        self.barrier.wait()
        for rank, part in enumerate(self.parts):
            values.copy_(part) if rank == 0 else values.add_(part)
        self.barrier.wait()
        return values


def in_threads(work: Work, size: int) -> list[Any]:
    """What every member of a team of threads found, by rank."""
    parts, barrier = [torch.empty(0)] * size, Barrier(size)

    def member(rank: int) -> Any:
        try:
            return work(ThreadTeam(rank, parts, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(member, range(size)))
