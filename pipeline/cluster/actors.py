"""The actors around a `Coupler`: they fetch the shared arrays, solve in one thread and write in another.

A block too large for one GPU is solved by a team: a `CouplerActor` and the `Member`s that it hires, all in the
placement group that it was given. Each member solves the same block at the same time (see
pipeline/ot/tiles/partition.py); the leader alone writes.
"""

import os
import resource
import sys
import time
from queue import Queue
from threading import Thread
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks.division import Blocks
from flowpairs.pipeline.cluster.connect import ActorShape
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.solve.block_solver import BlockSolver
from flowpairs.pipeline.solve.potentials import PotentialSolver

Trade = type[BlockSolver] | type[PotentialSolver]


class Member:
    """One of a team, other than its leader.

    Args:
        trade: what is done with blocks, `Coupler`, or with the problems of a semi-discrete coupling, `Solver`.
        config, directory, blocks: as for these.
        shared: references to the trade's other arguments. They come inside a list, so that a restarted actor fetches
            them again from their owner, the driver.
        threads: CPU cores that this actor was given.
    """

    def __init__(
        self,
        trade: Trade,
        config: CoupleConfig,
        directory: AnyPath,
        blocks: Blocks,
        shared: list[ray.ObjectRef],
        threads: int,
    ) -> None:
        self.coupler: BlockSolver | PotentialSolver = trade(config, directory, blocks, threads, *ray.get(shared))

    def join(self, host: str, port: int, rank: int, size: int) -> None:
        """Become a member of the team that meets there."""
        from flowpairs.pipeline.cluster.process_group import ProcessTeam

        self.coupler.team = ProcessTeam.join(host, port, rank, size, self.coupler.device)

    def help(self, block: int) -> None:
        """Do this member's part of a block."""
        self.coupler.solve(block)


class CouplerActor(Member):
    """Couples blocks on the devices that Ray assigned, alone or as the leader of a team.

    It is made remote with `concurrency_groups={"write": 1}`, so that `write` runs in a thread of its own: one
    block is encoded, hashed and written while the next one is solved, and the one after that waits for both.

    Args:
        trade, config, directory, blocks, shared, threads: as for `Member`.
        places: the placement group of the team, a bundle a member and the leader's first; None for a team of one.
    """

    def __init__(
        self,
        trade: Trade,
        config: CoupleConfig,
        directory: AnyPath,
        blocks: Blocks,
        shared: list[ray.ObjectRef],
        threads: int,
        places: Any = None,
    ) -> None:
        super().__init__(trade, config, directory, blocks, shared, threads)
        self.unwritten: Queue[tuple[Any, float]] = Queue()
        self.start_bytes = _peak()
        self.members = []
        for rank in range(1, places.bundle_count if places else 1):
            bundle = places.bundle_specs[rank]
            remote: Any = ray.remote(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(places, rank),
            )(Member)
            self.members.append(remote.remote(trade, config, directory, blocks, shared, threads))
        if self.members:
            from flowpairs.pipeline.cluster.process_group import ProcessTeam, open_store

            size = 1 + len(self.members)
            store, port = open_store(size)
            host = ray.util.get_node_ip_address()
            joined = [member.join.remote(host, port, rank, size) for rank, member in enumerate(self.members, 1)]
            self.coupler.team = ProcessTeam(store, 0, size, self.coupler.device)
            ray.get(joined)

    def solve(self, block: int) -> None:
        """Couple a block and keep it for `write`, as soon as the block before has been written."""
        watch = Thread(target=_fall_with, args=([member.help.remote(block) for member in self.members],))
        watch.start()
        started = time.monotonic()
        try:
            solved = self.coupler.solve(block)
        except (InputError, JobError):
            raise  # every member found the same
        except Exception:
            watch.join(10)  # where it was a member's death, this actor does not live on to say something else
            raise
        watch.join()
        seconds = time.monotonic() - started
        self.unwritten.join()
        self.unwritten.put((solved, seconds))

    @ray.method(concurrency_group="write")
    def write(self) -> dict[str, Any]:
        """Write the shards of the block that was solved; returns its report with what it took of this actor."""
        solved, solving = self.unwritten.get()
        started = time.monotonic()
        try:
            return {
                **self.coupler.write(solved),
                "gpus": [str(gpu) for gpu in ray.get_gpu_ids()],
                "solve_seconds": solving,
                "write_seconds": time.monotonic() - started,
                "start_bytes": self.start_bytes,
                "peak_bytes": _peak(),
            }
        finally:
            self.unwritten.task_done()


def _peak() -> int:
    """The most memory that this process has had, in bytes; not a GPU's."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _fall_with(parts: list[ray.ObjectRef]) -> None:
    """End this process when a member dies or fails: the team would wait for it, on GPUs for half an hour.

    The driver then hires a new team, as for any dead actor.
    """
    try:
        for part in parts:
            ray.get(part)
    except (RayActorError, RayTaskError) as error:
        if not isinstance(error, InputError | JobError):  # which every member raises, the leader too
            print(error, file=sys.stderr, flush=True)
            os._exit(1)


class Posts:
    """Hires actors, each the leader of a team where blocks take several, and dismisses them with their teams.

    Args:
        shape: how large one actor is.
        per_block: actors of a team.
        arguments: of `CouplerActor`.
    """

    def __init__(self, shape: ActorShape, per_block: int, *arguments: Any) -> None:
        self.shape, self.per_block, self.arguments = shape, per_block, arguments
        remote: Any = ray.remote  # its annotations do not know concurrency groups
        size = {"num_cpus": shape.cpus, "num_gpus": shape.gpus}
        self.remote = remote(**size, concurrency_groups={"write": 1})(CouplerActor)
        self.places: dict[Any, Any] = {}

    def hire(self) -> Any:
        """A new actor; its team is placed as a whole, so that no two half-formed ones wait for each other."""
        if self.per_block == 1:
            return self.remote.remote(*self.arguments)
        bundle = {"CPU": float(self.shape.cpus), "GPU": float(self.shape.gpus)}
        places = placement_group([{k: v for k, v in bundle.items() if v}] * self.per_block, strategy="PACK")
        at = PlacementGroupSchedulingStrategy(places, 0)
        actor = self.remote.options(scheduling_strategy=at).remote(*self.arguments, places)
        self.places[actor] = places
        return actor

    def dismiss(self, actor: Any) -> None:
        """End an actor and its team, dead or alive."""
        ray.kill(actor)
        if actor in self.places:
            remove_placement_group(self.places.pop(actor))
