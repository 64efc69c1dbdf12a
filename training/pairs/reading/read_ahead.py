"""A thread that makes batches before they are used."""

import atexit
import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from flowpairs.pipeline.base.errors import InputError

Item = TypeVar("Item")

READ_AHEAD = 8  # number of groups of batches that wait for their use
EXIT_SECONDS = 60.0  # seconds that the end of the program waits for a reading thread

_running: "weakref.WeakKeyDictionary[threading.Thread, threading.Event]" = weakref.WeakKeyDictionary()
os.register_at_fork(after_in_child=_running.clear)  # threads do not survive a fork


class ReadAhead(Generic[Item]):
    """An iterator over batches that one thread makes ahead; `close` or the deletion of this object ends the thread.

    Args:
        groups: an endless iterator over lists of batches, used by the thread alone.
        stop: the event that `close` sets, for code that waits inside `groups`; None: a new event.
    """

    def __init__(self, groups: Iterator[list[Item]], stop: threading.Event | None = None) -> None:
        self.waited = 0.0  # seconds that `next` has waited for the thread
        self._stop = threading.Event() if stop is None else stop
        self._queue: queue.Queue[list[Item] | BaseException] = queue.Queue(READ_AHEAD)
        self._group: list[Item] = []  # the batches left of the group that was taken from the queue
        given = (groups, self._queue, self._stop)  # without self, which then can be deleted while the thread runs
        self._thread = threading.Thread(target=_read_ahead, args=given, name="pair-loader", daemon=True)
        self._process = os.getpid()
        weakref.finalize(self, _end, self._stop, self._process)
        _running[self._thread] = self._stop
        self._thread.start()

    def __next__(self) -> Item:
        self.refuse_fork()
        if not self._group:
            start = time.perf_counter()
            item = self._queue.get()
            self.waited += time.perf_counter() - start
            if isinstance(item, BaseException):
                self._queue.put(item)  # so that another `next` raises again instead of waiting forever
                raise item
            self._group = item[::-1]
        return self._group.pop()

    def refuse_fork(self) -> None:
        """Refuse to go on in a forked child, which has no such thread and would wait for batches forever.

        Raises:
            InputError: this process is not the one that made the object.
        """
        if os.getpid() != self._process:
            raise InputError(
                "loader: forked while it reads; make one in each process, or give a DataLoader a flowpairs.PairDataset"
            )

    def close(self) -> None:
        """Stop the thread; further calls of `next` raise, also one that waits in another thread."""
        if os.getpid() != self._process:
            return
        self._stop.set()
        self._thread.join()
        self._group = []
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(InputError("loader: closed; make another one to go on from its state"))

    def __reduce__(self) -> Any:
        raise TypeError(
            "a loader reads in a thread and cannot be pickled; use flowpairs.PairDataset in other processes"
        )


def _end(stop: threading.Event, process: int) -> None:
    """Tell the thread to end, unless this is a forked child: the event may be locked forever there."""
    if os.getpid() == process:
        stop.set()


@atexit.register
def _join() -> None:
    """Wait for the threads at the end of the program: Python kills those that remain, and inside torch that aborts."""
    threads = list(_running.items())
    for _, stop in threads:
        stop.set()
    for thread, _ in threads:
        thread.join(EXIT_SECONDS)


def _read_ahead(groups: Iterator[list[Item]], into: queue.Queue, stop: threading.Event) -> None:
    def put(item: list[Item] | BaseException) -> bool:
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
    except BaseException as error:  # which the consumer raises
        put(error)
