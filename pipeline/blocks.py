"""Blocks: which source rows, which data ids and which shards belong to each coupling problem.

Block b couples the global source rows [b n, (b + 1) n) with m data. Where n is at most the number of data, an epoch
is a random order of all ids cut into blocks of n; the few left over are elsewhere in the next epoch's order. Where n is
larger (`resample: repeat`), and where the coupling is semi-discrete, every block holds all ids, each with weight 1/m.
All of it is a pure function of the config.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int64

from pipeline import noise
from pipeline.config import CoupleConfig
from pipeline.errors import InputError


@dataclass(frozen=True)
class Blocks:
    """The division of a job into blocks.

    Attributes:
        n: source rows of a block.
        ids: number of data ids, mirror images included.
        pairs: how many to write in all; the last block may keep only its first rows.
        pairs_per_shard: at most; a shard never spans blocks.
        seed: of the epochs' orders.
        whole: every block holds all ids, whatever n is.
    """

    n: int
    ids: int
    pairs: int
    pairs_per_shard: int
    seed: int
    whole: bool = False

    @property
    def m(self) -> int:
        """Target rows of a block."""
        return self.ids if self.whole else min(self.n, self.ids)

    @cached_property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.pairs // self.n)

    @property
    def seeds(self) -> range:
        """The blocks of the first epoch, which cover the data ids once, or nearly."""
        return range(min(self.count, max(1, self.ids // self.n)))

    def first_row(self, block: int) -> int:
        """Global number of the block's first source row."""
        return block * self.n

    def pairs_of(self, block: int) -> int:
        """Pairs that the block writes."""
        return min(self.n, self.pairs - block * self.n)

    def data_ids(self, block: int) -> Int64[np.ndarray, " m"]:
        """The block's data ids, each once."""
        if self.whole or self.n > self.ids:
            return np.arange(self.ids)
        epoch, part = divmod(block, self.ids // self.n)
        return _order(self.seed, self.ids, epoch)[part * self.n : (part + 1) * self.n]

    def shards(self, block: int) -> dict[int, range]:
        """Shard number -> rows of the block that it holds."""
        per_block = -(-self.n // self.pairs_per_shard)
        starts = range(0, self.pairs_of(block), self.pairs_per_shard)
        return {
            block * per_block + i: range(start, min(start + self.pairs_per_shard, self.pairs_of(block)))
            for i, start in enumerate(starts)
        }


@lru_cache(maxsize=1)
def _order(seed: int, ids: int, epoch: int) -> Int64[np.ndarray, " ids"]:
    return noise.permutation(seed, noise.Stream.EPOCH, ids, high=epoch)


def divide(config: CoupleConfig, rows: int) -> Blocks:
    """Divide a job over a data set of `rows` data.

    Raises:
        InputError: n is larger than the data set and the config does not say how to resample.
    """
    ids = rows * (2 if config.data.flips else 1)
    n, whole = config.coupling.n, config.coupling.method == "semidiscrete"
    if n > ids and not whole and config.coupling.resample is None and config.coupling.table is None:
        raise InputError(
            f"coupling.n={n}: larger than the data set of {ids} data; give coupling.n={ids} or less, or "
            "coupling.resample=repeat to have every datum in every block with n/N partners each"
        )
    return Blocks(n, ids, config.output.pairs, config.output.pairs_per_shard, config.source.seed, whole)
