"""A lane (see training/order.py) as an endless stream of shuffled pairs.

It is read in windows: stretches of the lane whose pairs are put in random order. While one window is handed out the
next one is read at the same pace, so that there is no pause between them.
"""

import math
from collections.abc import Iterator

import numpy as np

from training.order import Order
from training.shards import Fields, ShardReader

WINDOW_BYTES = 2**25  # of pairs; a lane holds two windows. It shapes the order, so it must not depend on the workers


class Window:
    """A stretch of a lane in random order.

    Pairs lie in the memory in the order in which they are read, and are gathered when they are handed out.

    Args:
        epoch, start: where in the lane it begins.
        gathered: which pair of the stretch is handed out first, second, ...
        pieces: of the stretch, one after the other.
        rows: memory that is free again, from a window before; it grows where it is too small.
    """

    def __init__(self, epoch: int, start: int, gathered: np.ndarray, pieces: Iterator[Fields], rows: Fields) -> None:
        self.epoch, self.start, self.gathered, self.pieces, self.rows = epoch, start, gathered, pieces, rows
        self.filled = self.drained = 0

    def fill(self, upto: int) -> None:
        """Read until at least `upto` pairs are in place."""
        while self.filled < upto:
            piece = next(self.pieces)
            stop = self.filled + len(next(iter(piece.values())))
            for name, array in piece.items():
                if name not in self.rows or len(self.rows[name]) < len(self.gathered):
                    self.rows[name] = np.empty((len(self.gathered), *array.shape[1:]), array.dtype)
                self.rows[name][self.filled : stop] = array
            self.filled = stop

    def gather(self, places: np.ndarray, out: Fields) -> None:
        """Copy the pairs at some places into `out`, whose arrays have the shape of `places` and then a pair's."""
        assert self.filled == len(self.gathered)
        for name, array in out.items():
            np.take(self.rows[name], places, 0, out=array, mode="clip")  # the other modes fill a buffer first


class Lane:
    """One lane from some pair of some epoch on, for ever.

    Args:
        reader: of the store.
        order: of the reading.
        lane: which one.
        consumed: pairs of the lane that were handed out before, over all epochs.
    """

    def __init__(self, reader: ShardReader, order: Order, lane: int, consumed: int) -> None:
        pair_bytes = 2 * 4 * math.prod(reader.index.shape) + 8
        self.size = max(1, min(order.per_lane, WINDOW_BYTES // pair_bytes))
        self.reader, self.order, self.lane = reader, order, lane
        epoch, position = divmod(consumed, order.per_lane)
        skip = position % self.size
        self.window = self._window(epoch, position - skip, {})
        self.window.fill(len(self.window.gathered))
        self.window.drained = skip
        self.following = self._after(self.window, {})

    @property
    def left(self) -> int:
        """Pairs of the window not yet handed out; the same in all lanes that were handed out equally many."""
        return len(self.window.gathered) - self.window.drained

    def take(self, batches: int, rows: int, part: slice, out: Fields) -> None:
        """Go on by `batches` times `rows` pairs, and copy those of `part` out of each.

        Args:
            batches: one, which may lie over the edges of windows and epochs, or several out of one window.
            rows: of each.
            part: which of them.
            out: arrays [batches, part, ...].
        """
        assert batches == 1 or batches * rows <= self.left
        done = 0
        while done < batches * rows:
            step = min(batches * rows - done, self.left)
            places = self.window.gathered[self.window.drained : self.window.drained + step]
            first, last = max(part.start, done), min(part.stop, done + step)
            if step == batches * rows:
                self.window.gather(places.reshape(batches, rows)[:, part], out)
            elif first < last:
                there = slice(first - part.start, last - part.start)
                piece = {name: array[:, there] for name, array in out.items()}
                self.window.gather(places[None, first - done : last - done], piece)
            done += step
            self.window.drained += step
            share = self.window.drained / len(self.window.gathered)
            self.following.fill(round(share * len(self.following.gathered)))
            if share == 1:
                self.window, self.following = self.following, self._after(self.following, self.window.rows)

    def _window(self, epoch: int, start: int, rows: Fields) -> Window:
        stop = min(start + self.size, self.order.per_lane)
        pieces = self.reader.read(self.order.stretches(epoch, self.lane, start, stop))
        gathered = np.empty(stop - start, np.int64)
        gathered[self.order.shuffle(epoch, self.lane, start, stop - start)] = np.arange(stop - start)
        return Window(epoch, start, gathered, pieces, rows)

    def _after(self, window: Window, rows: Fields) -> Window:
        start = window.start + len(window.gathered)
        epoch, start = (window.epoch, start) if start < self.order.per_lane else (window.epoch + 1, 0)
        return self._window(epoch, start, rows)
