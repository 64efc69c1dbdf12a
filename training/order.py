"""Which pair is read when: arithmetic on the index, without any file.

An epoch lays the shards end to end in an order drawn from (seed, epoch), closes them to a circle, and cuts the circle
from a drawn point into `lanes` equal arcs. A lane reads its arc in order; a global batch takes equally many pairs from
every lane. Every pair is thus met once an epoch, but for a remainder of fewer than `lanes` pairs, another one each
epoch; no lane ever has more batches than another, however few shards there are. Lanes are not workers: the batches
depend on the seed and the number of lanes alone, so that a run may go on with another number of workers.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stretch:
    """Pairs `start` to `stop` of one shard, in the shard's order."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Order:
    """The order of every epoch.

    Args:
        counts: pairs in each shard.
        lanes: arcs that an epoch is cut into; at most as many as there are pairs.
        seed: of all shuffling.
    """

    counts: Sequence[int]
    lanes: int
    seed: int

    @property
    def per_lane(self) -> int:
        """Pairs that each lane reads in an epoch."""
        return sum(self.counts) // self.lanes

    def stretches(self, epoch: int, lane: int, start: int, stop: int) -> list[Stretch]:
        """Where pairs `start` to `stop` of a lane's arc lie."""
        assert 0 <= start <= stop <= self.per_lane
        total = sum(self.counts)
        generator = np.random.default_rng([self.seed, epoch])
        shards = generator.permutation(len(self.counts))
        edges = list(itertools.accumulate((self.counts[shard] for shard in shards), initial=0))
        first = int(generator.integers(total)) + lane * self.per_lane + start
        out = []
        for lap in (0, total):  # an arc may run over the end of the line once
            for shard, left, right in zip(shards, edges, edges[1:], strict=False):
                a, b = max(first, left + lap), min(first + stop - start, right + lap)
                if a < b:
                    out.append(Stretch(int(shard), a - left - lap, b - left - lap))
        return out

    def shuffle(self, epoch: int, lane: int, start: int, length: int) -> np.ndarray:
        """A permutation of the `length` pairs of a lane from `start` on."""
        return np.random.default_rng([self.seed, epoch, lane, start]).permutation(length)
