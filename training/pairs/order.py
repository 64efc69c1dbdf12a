"""Which pair is read when: arithmetic on the index, without any file.

An epoch lays the shards end to end in an order drawn from (seed, epoch), closes them to a circle, and cuts the circle
from a drawn point into `lanes` equal arcs. A lane reads its arc in order; a global batch takes equally many pairs from
every lane. Every pair is thus met once an epoch, but for a remainder of fewer than `lanes` pairs, another one each
epoch; no lane ever has more batches than another, however few shards there are. Lanes are not workers: the batches
depend on the seed and the number of lanes alone, so that a run may go on with another number of workers.

The first epoch of a stream, whose shards come one after the other, is laid out so that they can be read as they come:
the shards in the order of their numbers, and for every group of them that comes together the lanes' arcs of its own.
It too is known before any of them is there, so that batches do not depend on when shards come.
"""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Stretch:
    """Pairs `start` to `stop` of one shard, in the shard's order."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Segment:
    """Part of a lane's epoch: pairs `start` to `stop`, that can be read once the shards `needs` are there."""

    start: int
    stop: int
    needs: range


@dataclass(frozen=True)
class Order:
    """The order of every epoch.

    Args:
        counts: pairs in each shard.
        lanes: arcs that an epoch is cut into; at most as many as there are pairs.
        seed: of all shuffling.
        groups: of a stream, how many shards come together each time; their sum is that of the shards.
    """

    counts: Sequence[int]
    lanes: int
    seed: int
    groups: Sequence[int] = ()

    @property
    def per_lane(self) -> int:
        """Pairs that each lane reads in an epoch."""
        return sum(self.counts) // self.lanes

    def segment(self, epoch: int, position: int) -> Segment:
        """The part of a lane's epoch that a position is in."""
        assert 0 <= position < self.per_lane
        if epoch or not self.groups:
            return Segment(0, self.per_lane, range(0))
        lasts, ends = self._groups
        group = bisect.bisect_right(ends, position)
        start, first = (ends[group - 1], lasts[group - 1]) if group else (0, 0)
        return Segment(start, ends[group], range(first, lasts[group]))

    def stretches(self, epoch: int, lane: int, start: int, stop: int) -> list[Stretch]:
        """Where pairs `start` to `stop` of a lane's arc lie."""
        assert 0 <= start <= stop <= self.per_lane
        if not epoch and self.groups:
            return self._streamed(lane, start, stop)
        total = sum(self.counts)
        generator = np.random.default_rng([self.seed, epoch])
        shards = generator.permutation(len(self.counts))
        first = int(generator.integers(total)) + lane * self.per_lane + start
        return self._on_line(shards.tolist(), first, first + stop - start)

    def _streamed(self, lane: int, start: int, stop: int) -> list[Stretch]:
        """The same in the first epoch of a stream: a group's pairs lie behind those of the groups before."""
        out = []
        while start < stop:
            segment = self.segment(0, start)
            part = min(stop, segment.stop) - start
            arc = segment.start * self.lanes + lane * (segment.stop - segment.start)
            first = arc + start - segment.start
            out += self._on_line(range(len(self.counts)), first, first + part)
            start += part
        return out

    def _on_line(self, shards: Sequence[int], first: int, stop: int) -> list[Stretch]:
        """What lies at `first` to `stop` of a line of shards; behind its end it begins once more."""
        edges = list(itertools.accumulate((self.counts[shard] for shard in shards), initial=0))
        out = []
        for lap in (0, edges[-1]):
            for shard, left, right in zip(shards, edges, edges[1:], strict=False):
                a, b = max(first, left + lap), min(stop, right + lap)
                if a < b:
                    out.append(Stretch(shard, a - left - lap, b - left - lap))
        return out

    @cached_property
    def _groups(self) -> tuple[list[int], list[int]]:
        """For every group, the number of shards, and of pairs of a lane, up to its end.

        What does not fill all lanes goes with the next group.
        """
        lasts = list(itertools.accumulate(self.groups))
        edges = list(itertools.accumulate(self.counts, initial=0))
        assert lasts[-1] == len(self.counts)
        return lasts, [edges[last] // self.lanes for last in lasts]

    def shuffle(self, epoch: int, lane: int, start: int, length: int) -> np.ndarray:
        """A permutation of the `length` pairs of a lane from `start` on."""
        return np.random.default_rng([self.seed, epoch, lane, start]).permutation(length)
