"""The order in which pairs are read: arithmetic on the index, without access to files.

An epoch lays the shards end to end in an order drawn from (seed, epoch), closes them to a circle, and cuts the circle
into equal arcs, starting at a drawn point. An arc is read in order; a global batch takes equally many pairs from every
arc. So each epoch reads every pair once, except for a remainder of fewer pairs than arcs, which changes from epoch to
epoch, and all arcs last for equally many batches, however few shards there are. Arcs are not workers: the batches
depend on the seed and the number of arcs alone, so a run may resume with another number of workers.

The first epoch of a store that is still being written follows the order in which shards appear: the shards by number,
where each group that appears together is cut into arcs of its own. This order is also fixed before any shard exists, so
batches do not depend on when shards appear.

All draws are words of Philox by (seed, epoch), as docs/pair-format.md describes them.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from flowpairs.pipeline.blocks import noise

KEPT_LINES = 2  # epochs whose order of shards is kept: a window may reach into the next one
ARCS = 8  # batches are the same for any number of workers up to this


def arcs_for(batch: int, world: int) -> int:
    """Choose the number of arcs for a global batch: a divisor of its size, above ARCS only for more workers."""
    return world if world > ARCS else math.gcd(batch, ARCS)


@dataclass(frozen=True)
class Stretch:
    """Pairs `start` to `stop` of one shard, in the shard's order."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Segment:
    """Pairs `start` to `stop` of an arc, which can be read as soon as the shards `needs` exist."""

    start: int
    stop: int
    needs: range


class Line:
    """Shards laid end to end and repeated once: a circle, cut open.

    Args:
        shards: the numbers of the shards, in order.
        counts: the number of pairs of each.
    """

    def __init__(self, shards: Int64[np.ndarray, " s"], counts: Int64[np.ndarray, " s"]) -> None:
        self.shards, self.edges = shards, np.concatenate([[0], np.cumsum(counts)])
        self.total = int(self.edges[-1])

    def stretches(self, first: int, stop: int) -> list[Stretch]:
        """List the stretches that hold pairs `first` to `stop`."""
        out = []
        for lap in (0, self.total):
            low, high = max(first - lap, 0), min(stop - lap, self.total)
            at = int(np.searchsorted(self.edges, low, "right")) - 1
            while low < high:
                left, right = self.edges[at : at + 2].tolist()
                if left < right:
                    out.append(Stretch(int(self.shards[at]), low - left, min(high, right) - left))
                low, at = right, at + 1
        return out


@dataclass(frozen=True)
class Order:
    """The order of every epoch.

    Args:
        counts: the number of pairs of each shard.
        arcs: the number of arcs of an epoch, at most the number of pairs.
        seed: the seed of all shuffling.
        groups: for a store that is still being written, the number of shards of each group that appears together, which
            add up to all shards; empty for a complete store.
    """

    counts: Sequence[int]
    arcs: int
    seed: int
    groups: Sequence[int] = ()

    @property
    def per_arc(self) -> int:
        """The number of pairs per arc."""
        return self._total // self.arcs

    @cached_property
    def _total(self) -> int:
        return sum(self.counts)

    def segment(self, epoch: int, position: int) -> Segment:
        """Find the segment of an arc that contains a position."""
        assert 0 <= position < self.per_arc
        if epoch or not self.groups:
            return Segment(0, self.per_arc, range(0))
        lasts, stops = self._groups
        group = bisect.bisect_right(stops, position)
        start, first = (stops[group - 1], lasts[group - 1]) if group else (0, 0)
        return Segment(start, stops[group], range(first, lasts[group]))

    def stretches(self, epoch: int, arc: int, start: int, stop: int) -> list[Stretch]:
        """List the stretches of shards that hold pairs `start` to `stop` of an arc."""
        assert 0 <= start <= stop <= self.per_arc
        if not epoch and self.groups:
            return self._streamed(arc, start, stop)
        line = self._line(epoch)
        first = noise.below(self.seed, noise.Stream.CUT, line.total, high=epoch) + arc * self.per_arc + start
        return line.stretches(first, first + stop - start)

    def _streamed(self, arc: int, start: int, stop: int) -> list[Stretch]:
        """List the stretches in the first epoch of a growing store: the pairs of a group follow earlier groups'."""
        out = []
        while start < stop:
            segment = self.segment(0, start)
            part = min(stop, segment.stop) - start
            first = segment.start * self.arcs + arc * (segment.stop - segment.start) + start - segment.start
            out += self._by_number.stretches(first, first + part)
            start += part
        return out

    def _line(self, epoch: int) -> "Line":
        """Lay the shards of an epoch end to end; the last epochs' lines are kept, since windows ask one by one."""
        if epoch not in self._lines:
            while len(self._lines) >= KEPT_LINES:
                del self._lines[next(iter(self._lines))]
            shards = noise.permutation(self.seed, noise.Stream.SHARDS, len(self.counts), high=epoch)
            self._lines[epoch] = Line(shards, np.asarray(self.counts, np.int64)[shards])
        return self._lines[epoch]

    @cached_property
    def _lines(self) -> dict[int, "Line"]:
        return {}

    @cached_property
    def _by_number(self) -> "Line":
        return Line(np.arange(len(self.counts)), np.asarray(self.counts, np.int64))

    @cached_property
    def _groups(self) -> tuple[list[int], list[int]]:
        """The numbers of shards, and of pairs per arc, up to the end of each group.

        A remainder that does not fill all arcs moves to the next group.
        """
        lasts = list(itertools.accumulate(self.groups))
        edges = list(itertools.accumulate(self.counts, initial=0))
        assert lasts[-1] == len(self.counts)
        return lasts, [edges[last] // self.arcs for last in lasts]

    def shuffle(self, epoch: int, arc: int, start: int, length: int) -> np.ndarray:
        """Draw an order of the `length` pairs of an arc that begin at `start`: that of their words, one per pair."""
        first = arc * self.per_arc + start
        return noise.permutation(self.seed, noise.Stream.WINDOWS, length, first=first, high=epoch)
