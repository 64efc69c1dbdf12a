"""Cores of this process, and work in threads whose results do not depend on how many there are."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


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


def cores() -> int:
    """Count the cores that this process may use: by its affinity, and by the limits of its control groups.

    A container that is limited to two cores sees all of its machine's, and as many threads would wait for each other
    most of the time.
    """
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _granted())))


def _cores() -> int:
    """Count the cores for this process: those that Ray gave a task, which it says by OMP_NUM_THREADS, or all."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(given)) if given.isdigit() and int(given) else cores()


def _granted() -> float:
    """Return the seconds of processor time a second that control groups, of version 1 or 2, grant this process."""
    least = math.inf
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:  # no Linux
        return least
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = GROUPS / controllers
        group = top / own.lstrip("/")  # in a container this may be the name outside, and the top is its own
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                least = min(least, _limit(folder))
    return least


def _limit(group: Path) -> float:
    """Read the limit of one control group; infinite where it has none."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max", or not there
        return math.inf
