"""Work done by teams of real processes, this one the first of each."""

from collections.abc import Callable, Sequence
from pathlib import Path
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
