"""The actor around a `Coupler`: it fetches the shared arrays, solves in one thread and writes in another."""

from queue import Queue
from typing import Any

import ray

from pipeline.blocks import Blocks
from pipeline.config import CoupleConfig
from pipeline.coupler import Coupler, Solved
from pipeline.place import Place


class CouplerActor:
    """Couples blocks on the devices that Ray assigned.

    It is made remote with `concurrency_groups={"write": 1}`, so that `write` runs in a thread of its own: one
    block is encoded, hashed and written while the next one is solved, and the one after that waits for both.

    Args:
        config, directory, blocks: as for `Coupler`.
        shared: references to features, data, labels, data features and table. They come inside a list, so that a
            restarted actor fetches them again from their owner, the driver.
        threads: CPU cores that this actor was given.
    """

    def __init__(
        self, config: CoupleConfig, directory: Place, blocks: Blocks, shared: list[ray.ObjectRef], threads: int
    ) -> None:
        features, x, labels, data_features, table = ray.get(shared)
        self.coupler = Coupler(config, directory, blocks, features, x, labels, data_features, threads, table)
        self.unwritten: Queue[Solved] = Queue()

    def solve(self, block: int) -> None:
        """Couple a block and keep it for `write`, as soon as the block before has been written."""
        solved = self.coupler.solve(block)
        self.unwritten.join()
        self.unwritten.put(solved)

    @ray.method(concurrency_group="write")
    def write(self) -> dict[str, Any]:
        """Write the shards of the block that was solved; returns its report with the GPUs of this actor."""
        solved = self.unwritten.get()
        try:
            return {**self.coupler.write(solved), "gpus": [str(gpu) for gpu in ray.get_gpu_ids()]}
        finally:
            self.unwritten.task_done()
