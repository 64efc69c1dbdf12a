"""The division of a job into blocks: which source rows, data ids and shards belong to each coupling problem.

Block b couples the global source rows [b n, (b + 1) n) with m data. Where n is at most the number of data, an epoch is
a random order of all ids cut into blocks of n; the few left over have other positions in the next epoch's order. Where
n is larger (`resample: repeat`), and where the coupling is semi-discrete, every block holds all ids, each with weight
1/m. The data of method reflow are as many as the source rows, and a block has those that its noise is led to. All of
this is a pure function of the config.

Where the source is data too, blocks take turns among the legs (pipeline/blocks/source.py). A block has n pairs; on
either side it holds all ids of its leg if those are at most n, and otherwise the next n of an epoch's order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.config import CoupleConfig

if TYPE_CHECKING:
    from flowpairs.pipeline.blocks.source import Leg, SourceData


@dataclass(frozen=True)
class Blocks:
    """The division of a job into blocks.

    Attributes:
        n: pairs per block; equal to its source rows where these are noise.
        ids: number of data ids, mirror images included.
        pairs: number of pairs to write in all; the last block may keep only its first rows.
        pairs_per_shard: largest number of pairs in a shard; a shard never spans blocks.
        seed: seed of the epochs' orders.
        whole: whether every block holds all ids, whatever n is.
        legs: pairs of id sets that are coupled; none where the source is noise.
    """

    n: int
    ids: int
    pairs: int
    pairs_per_shard: int
    seed: int
    whole: bool = False
    legs: Sequence["Leg"] = ()

    @property
    def m(self) -> int:
        """Target rows of a block, the largest number where blocks differ."""
        if self.legs:
            return max(min(self.n, len(leg.target)) for leg in self.legs)
        return self.ids if self.whole else min(self.n, self.ids)

    @property
    def rows(self) -> int:
        """Source rows of a block, the largest number where blocks differ."""
        return max((min(self.n, len(leg.source)) for leg in self.legs), default=self.n)

    @cached_property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.pairs // self.n)

    def leg(self, block: int) -> "Leg | None":
        """Return the leg of a block; None where the source is noise."""
        return self.legs[block % len(self.legs)] if self.legs else None

    def same(self, block: int) -> int | None:
        """Number the block's problem: blocks with the same problem share it; None where each block has its own."""
        leg = self.leg(block)
        alike = leg is not None and max(len(leg.source), len(leg.target)) <= self.n
        return block % len(self.legs) if alike else None

    def first_row(self, block: int) -> int:
        """Return the global number of the block's first source row."""
        return block * self.n

    def pairs_of(self, block: int) -> int:
        """Count the pairs that the block writes."""
        return min(self.n, self.pairs - block * self.n)

    def data_ids(self, block: int) -> Int64[np.ndarray, " m"]:
        """List the block's data ids, each once."""
        if (leg := self.leg(block)) is not None:
            return self._next(block, leg.target, noise.Stream.EPOCH)
        if self.whole or self.n > self.ids:
            return np.arange(self.ids)
        epoch, part = divmod(block, self.ids // self.n)
        return _order(self.seed, self.ids, epoch)[part * self.n : (part + 1) * self.n]

    def source_ids(self, block: int) -> Int64[np.ndarray, " s"]:
        """List the block's ids on a source side that is data, each once."""
        leg = self.leg(block)
        assert leg is not None
        return self._next(block, leg.source, noise.Stream.SOURCE_EPOCH)

    def _next(self, block: int, ids: Int64[np.ndarray, " k"], stream: noise.Stream) -> Int64[np.ndarray, " r"]:
        """List all ids of a leg's side, or the next n of them."""
        if len(ids) <= self.n:
            return ids
        turn, leg = divmod(block, len(self.legs))
        epoch, part = divmod(turn, len(ids) // self.n)
        order = _order(self.seed, len(ids), epoch * len(self.legs) + leg, stream)
        return ids[order[part * self.n : (part + 1) * self.n]]

    def shards(self, block: int) -> dict[int, range]:
        """Map the numbers of the block's shards to the rows of the block that each holds."""
        per_block = -(-self.n // self.pairs_per_shard)
        starts = range(0, self.pairs_of(block), self.pairs_per_shard)
        return {
            block * per_block + i: range(start, min(start + self.pairs_per_shard, self.pairs_of(block)))
            for i, start in enumerate(starts)
        }


MOST_SHARDS = 2_000_000  # files of a directory, and entries of an index, that are still handled with ease


@lru_cache(maxsize=2)
def _order(seed: int, ids: int, high: int, stream: noise.Stream = noise.Stream.EPOCH) -> Int64[np.ndarray, " ids"]:
    return noise.permutation(seed, stream, ids, high=high)


def divide(config: CoupleConfig, rows: int, source: "SourceData | None" = None) -> Blocks:
    """Divide a job over a data set of `rows` data.

    Args:
        config: the job.
        rows: number of data, without mirror images.
        source: the source side, where it is data.

    Raises:
        InputError: n is larger than the data set and the config does not say how to resample, or there are weights and
            a block does not hold all data.
    """
    ids = rows * (2 if config.data.flips else 1)
    n, whole = config.coupling.n, config.coupling.method == "semidiscrete"
    if config.coupling.method == "reflow":
        ids = n * -(-config.output.pairs // n)
    legs = () if source is None else source.legs
    most = max((max(len(leg.source), len(leg.target)) for leg in legs), default=ids)
    if n > most and not whole and config.coupling.resample is None and config.coupling.table is None:
        raise InputError(
            f"coupling.n={n}: larger than the data set of {most} data; give coupling.n={most} or less, or "
            "coupling.resample=repeat to have every datum in every block with n/N partners each"
        )
    weighted = config.data.weight is not None or (source is not None and source.weights is not None)
    if weighted and n < most and not whole:
        raise InputError(
            f"coupling.n={n}: weights are of all {most} data together, so that a block needs all of them; "
            f"give coupling.n={most}, or more with coupling.resample=repeat"
        )
    if config.output.pairs < n * len(legs) and len(legs) > 1:
        raise InputError(
            f"output.pairs={config.output.pairs}: a chain of {len(legs)} legs takes a block of coupling.n={n} pairs "
            f"for each in turn; give output.pairs={n * len(legs)} or more, or a smaller coupling.n"
        )
    per_shard = config.output.shard_pairs(n)
    blocks = Blocks(n, ids, config.output.pairs, per_shard, config.source.seed, whole, legs)
    shards = blocks.count * -(-n // per_shard)
    if shards > MOST_SHARDS:
        raise InputError(
            f"output.pairs={config.output.pairs}: about {shards:.3g} shards in {blocks.count:.3g} blocks, and a store "
            f"has at most {MOST_SHARDS:,}; lower it, or raise coupling.n or output.pairs_per_shard"
        )
    return blocks
