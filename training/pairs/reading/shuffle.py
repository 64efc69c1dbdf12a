"""An arc (see training/pairs/reading/order.py) as an endless stream of shuffled pairs.

It is read in windows: stretches of the arc whose pairs are put in random order. While the pairs of one window are
returned, the next window is read at the same pace, so that there is no pause between them; in a growing store, that
begins as soon as the shards exist.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from flowpairs.training.pairs.reading.order import Order
from flowpairs.training.pairs.reading.shards import Fields, ShardReader

WINDOW_BYTES = 2**25  # of pairs; an arc holds two windows. The order depends on it, so it must not depend on workers


class Window:
    """A stretch of an arc in random order.

    Pairs are stored in the order in which they are read, and are gathered when they are returned.

    Args:
        epoch: the epoch that the window belongs to.
        start: the first pair of the window in the arc.
        gathered: the order of return: the numbers, in the stretch, of the first pair, the second pair, and so on.
        pieces: an iterator over the consecutive pieces of the stretch.
        ready: a function that returns whether the pieces are available without waiting.
        rows: the memory of an earlier window to use again; it grows if it is too small.
    """

    def __init__(
        self,
        epoch: int,
        start: int,
        gathered: np.ndarray,
        pieces: Iterator[Fields],
        ready: Callable[[], bool],
        rows: Fields,
    ) -> None:
        self.epoch, self.start, self.gathered = epoch, start, gathered
        self.pieces, self.ready, self.rows = pieces, ready, rows
        self.filled = self.drained = 0

    def fill(self, upto: int) -> None:
        """Read until at least `upto` pairs are in memory."""
        while self.filled < upto:
            piece = next(self.pieces)
            stop = self.filled + len(next(iter(piece.values())))
            for name, array in piece.items():
                if name not in self.rows or len(self.rows[name]) < len(self.gathered):
                    self.rows[name] = np.empty((len(self.gathered), *array.shape[1:]), array.dtype)
                self.rows[name][self.filled : stop] = array
            self.filled = stop

    def gather(self, pairs: np.ndarray, out: Fields) -> None:
        """Copy the numbered pairs into `out`, whose arrays have the shape of `pairs` followed by that of a pair."""
        assert self.filled == len(self.gathered)
        for name, array in out.items():
            np.take(self.rows[name], pairs, 0, out=array, mode="clip")  # the other modes fill a buffer first


class ShuffledArc:
    """The endless stream of an arc's shuffled pairs, starting at any pair of any epoch.

    Args:
        reader: the reader of the store.
        order: the order of the pairs.
        arc: the number of the arc.
        consumed: the number of pairs of the arc that were returned before, over all epochs.
    """

    def __init__(self, reader: ShardReader, order: Order, arc: int, consumed: int) -> None:
        pair_bytes = 2 * 4 * math.prod(reader.index.shape) + 8
        self.size = max(1, min(order.per_arc, WINDOW_BYTES // pair_bytes))
        self.reader, self.order, self.arc = reader, order, arc
        epoch, position = divmod(consumed, order.per_arc)
        skip = (position - order.segment(epoch, position).start) % self.size
        self.window = self._window(epoch, position - skip, {})
        self.window.fill(len(self.window.gathered))
        self.window.drained = skip
        self.following = self._after(self.window, {})

    @property
    def left(self) -> int:
        """The number of pairs of the window not returned yet; it is the same in all arcs that are at one position."""
        return len(self.window.gathered) - self.window.drained

    def take(self, batches: int, rows: int, part: slice, out: Fields) -> None:
        """Advance by `batches` times `rows` pairs, and copy the rows `part` of each batch.

        Args:
            batches: the number of batches: one, which may extend over several windows and epochs, or several from one
                window.
            rows: the number of rows of each batch.
            part: the rows of each batch to copy.
            out: the arrays [batches, part, ...] to copy to.
        """
        assert batches == 1 or batches * rows <= self.left
        done = 0
        while done < batches * rows:
            self.renew()
            step = min(batches * rows - done, self.left)
            pairs = self.window.gathered[self.window.drained : self.window.drained + step]
            first, last = max(part.start, done), min(part.stop, done + step)
            if step == batches * rows:
                self.window.gather(pairs.reshape(batches, rows)[:, part], out)
            elif first < last:
                into = slice(first - part.start, last - part.start)
                piece = {name: array[:, into] for name, array in out.items()}
                self.window.gather(pairs[None, first - done : last - done], piece)
            done += step
            self.window.drained += step
            if self.following.ready():
                share = self.window.drained / len(self.window.gathered)
                self.following.fill(round(share * len(self.following.gathered)))

    def renew(self) -> None:
        """Move to the next window if this one is used up, and not earlier, since it may mean waiting for shards."""
        if not self.left:
            self.following.fill(len(self.following.gathered))
            self.window, self.following = self.following, self._after(self.following, self.window.rows)

    def _window(self, epoch: int, start: int, rows: Fields) -> Window:
        segment, source = self.order.segment(epoch, start), self.reader.source
        stop = min(start + self.size, segment.stop)
        gathered = self.order.shuffle(epoch, self.arc, start, stop - start)

        def pieces() -> Iterator[Fields]:
            for number in segment.needs:  # all of them: else a worker could run ahead and wait for others in a step
                source.take(number)
            yield from self.reader.read(self.order.stretches(epoch, self.arc, start, stop))

        def ready() -> bool:
            return all(source.there(number) for number in segment.needs)

        return Window(epoch, start, gathered, pieces(), ready, rows)

    def _after(self, window: Window, rows: Fields) -> Window:
        start = window.start + len(window.gathered)
        epoch, start = (window.epoch, start) if start < self.order.per_arc else (window.epoch + 1, 0)
        return self._window(epoch, start, rows)
