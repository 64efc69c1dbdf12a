"""Work in threads of this process whose numbers do not depend on how many there are."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep BLAS to one thread, so that a product has the same bits whatever the number of cores."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def map_in_threads(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Yield the result of `work` for each item, in order; one item a core is worked on at a time, each by one thread.

    Args:
        work: function of one item, such as a product of matrices of a fixed shape.
        items: the items.
    """
    cores = _cores()
    with single_threaded():
        if cores == 1 or len(items) == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(cores) as pool:
            waiting: deque[Future[Any]] = deque()
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _cores() -> int:
    """Count the cores for this process: those that Ray gave a task, which it says by OMP_NUM_THREADS, or all."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    own = len(os.sched_getaffinity(0))
    return min(own, int(given)) if given.isdigit() and int(given) else own
