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
    """A stretch of a lane in random order: each pair is put at its shuffled place as it is read."""

    def __init__(self, epoch: int, start: int, shuffle: np.ndarray, pieces: Iterator[Fields]) -> None:
        self.epoch, self.start, self.shuffle, self.pieces = epoch, start, shuffle, pieces
        self.filled = self.drained = 0
        self.rows: Fields = {}

    def fill(self, upto: int) -> None:
        """Read until at least `upto` pairs are in place."""
        while self.filled < upto:
            piece = next(self.pieces)
            for name, array in piece.items():
                if name not in self.rows:
                    self.rows[name] = np.empty((len(self.shuffle), *array.shape[1:]), array.dtype)
                places = self.shuffle[self.filled : self.filled + len(array)]
                self.rows[name][places] = array
            self.filled += len(places)

    def drain(self, rows: int) -> Fields:
        """Up to `rows` of the pairs not yet handed out; the window must be full."""
        assert self.filled == len(self.shuffle)
        part = {name: array[self.drained : self.drained + rows] for name, array in self.rows.items()}
        self.drained = min(self.drained + rows, len(self.shuffle))
        return part


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
        self.window = self._window(epoch, position - skip)
        self.window.fill(len(self.window.shuffle))
        self.window.drained = skip
        self.following = self._after(self.window)

    def take(self, rows: int) -> Fields:
        """The next rows, over the edges of windows and epochs."""
        parts = []
        while rows:
            part = self.window.drain(rows)
            rows -= len(part[self.reader.fields[0]])
            parts.append(part)
            share = self.window.drained / len(self.window.shuffle)
            self.following.fill(round(share * len(self.following.shuffle)))
            if share == 1:
                self.window, self.following = self.following, self._after(self.following)
        return {name: joined([part[name] for part in parts]) for name in self.reader.fields}

    def _window(self, epoch: int, start: int) -> Window:
        stop = min(start + self.size, self.order.per_lane)
        pieces = self.reader.read(self.order.stretches(epoch, self.lane, start, stop))
        return Window(epoch, start, self.order.shuffle(epoch, self.lane, start, stop - start), pieces)

    def _after(self, window: Window) -> Window:
        start = window.start + len(window.shuffle)
        return self._window(window.epoch, start) if start < self.order.per_lane else self._window(window.epoch + 1, 0)


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """The parts one after the other; a single one as it is, without a copy."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
