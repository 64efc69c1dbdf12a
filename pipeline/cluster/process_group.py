"""Actors that solve one block together, over torch.distributed: NCCL between GPUs, gloo between CPUs."""

import socket
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(minutes=30)  # for a member that hangs; one that died is noticed at once


def open_store(host: str, size: int) -> tuple[dist.TCPStore, int]:
    """Open the meeting point of a new team on a free port; it lives as long as the object.

    Args:
        host: the address of this node at which the others reach it. Nothing listens on the node's other addresses,
            where torch's own socket would.
        size: number of members.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family, backlog=max(64, size))
    port = listening.getsockname()[1]
    store = dist.TCPStore(
        host,
        port,
        size,
        is_master=True,
        wait_for_workers=False,
        timeout=PATIENCE,
        master_listen_fd=listening.detach(),
    )
    return store, port


class ProcessTeam:
    """A `flowpairs.pipeline.ot.tiles.partition.Team` over torch.distributed's one default group per process.

    Args:
        store: meeting point of the team.
        rank: rank of this process.
        size: number of processes in the team.
        device: device of the tensors to be summed.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, device: str) -> None:
        self.rank, self.size = rank, size
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)

    @classmethod
    def join(cls, host: str, port: int, rank: int, size: int, device: str) -> "ProcessTeam":
        """Enter a team whose meeting point is in another process."""
        return cls(dist.TCPStore(host, port, size, wait_for_workers=False, timeout=PATIENCE), rank, size, device)

    def sum(self, values: Tensor) -> Tensor:
        """See `flowpairs.pipeline.ot.tiles.partition.Team.sum`."""
        dist.all_reduce(values)
        return values
