"""A thread that makes batches ahead of their use."""

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Iterator

from flowpairs.training.pairs.reading.shard_batches import Tensors

READ_AHEAD = 8  # groups of batches
EXIT_SECONDS = 60.0  # that a program's end waits for a thread that reads

_running: "weakref.WeakKeyDictionary[threading.Thread, threading.Event]" = weakref.WeakKeyDictionary()


class ReadAhead:
    """Iterates over batches that one thread makes ahead; it ends with `close`, or when this object is dropped.

    Args:
        groups: batches without end, some at a time; used by the thread alone.
        stop: what `close` sets, for those who wait inside `groups`.
    """

    def __init__(self, groups: Iterator[list[Tensors]], stop: threading.Event | None = None) -> None:
        self.waited = 0.0  # seconds that `next` has waited for the thread
        self._stop = threading.Event() if stop is None else stop
        self._queue: queue.Queue[list[Tensors] | BaseException] = queue.Queue(READ_AHEAD)
        self._group: list[Tensors] = []  # what is left of the group that was taken from the queue
        given = (groups, self._queue, self._stop)  # the thread must not hold this object, or it would never be dropped
        self._thread = threading.Thread(target=_read_ahead, args=given, name="pair-loader", daemon=True)
        weakref.finalize(self, self._stop.set)
        _running[self._thread] = self._stop
        self._thread.start()

    def __next__(self) -> Tensors:
        if not self._group:
            start = time.perf_counter()
            item = self._queue.get()
            self.waited += time.perf_counter() - start
            if isinstance(item, BaseException):
                self._queue.put(item)  # so that asking again raises again rather than waits for ever
                raise item
            self._group = item[::-1]
        return self._group.pop()

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()


@atexit.register
def _join() -> None:
    """Wait for the threads at the program's end: Python ends those that are left, which aborts them inside of torch."""
    threads = list(_running.items())
    for _, stop in threads:
        stop.set()
    for thread, _ in threads:
        thread.join(EXIT_SECONDS)


def _read_ahead(groups: Iterator[list[Tensors]], into: queue.Queue, stop: threading.Event) -> None:
    def put(item: list[Tensors] | BaseException) -> bool:
        while not stop.is_set():
            try:
                into.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    try:
        for group in groups:
            if not put(group):
                return
    except BaseException as error:  # handed to the consumer
        put(error)
