"""The actor around a `Coupler`: it fetches the shared arrays and says which devices Ray gave it."""

from pathlib import Path
from typing import Any

import ray

from pipeline.blocks import Blocks
from pipeline.config import CoupleConfig
from pipeline.coupler import Coupler


class CouplerActor:
    """Couples blocks on the devices that Ray assigned.

    Args:
        config, directory, blocks: as for `Coupler`.
        shared: references to features, data, labels, data features and table. They come inside a list, so that a
            restarted actor fetches them again from their owner, the driver.
        threads: CPU cores that this actor was given.
    """

    def __init__(
        self, config: CoupleConfig, directory: Path, blocks: Blocks, shared: list[ray.ObjectRef], threads: int
    ) -> None:
        features, x, labels, data_features, table = ray.get(shared)
        self.coupler = Coupler(config, directory, blocks, features, x, labels, data_features, threads, table)

    def couple(self, block: int) -> dict[str, Any]:
        """Couple one block and write its shards; returns its report with the GPUs of this actor."""
        return {**self.coupler.couple(block), "gpus": [str(gpu) for gpu in ray.get_gpu_ids()]}
