"""Tasks of one kind, run by Ray Data on all nodes or one after the other in this process."""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flowpairs.pipeline.base.errors import InputError, JobError


def run_tasks(work: Callable[[Any], Any], items: Sequence[Any], *, by_ray: bool) -> Iterator[Any]:
    """Yield the result of `work` for each item, as it is finished.

    Args:
        work: function of one item that can be pickled, with small results; tasks of it have a CPU each, and those of a
            node that is lost run again.
        items: the items, a task each.
        by_ray: run the tasks by Ray Data, which needs Ray; one item alone is done here.

    Raises:
        InputError, JobError: what a task raised.
    """
    if not by_ray or len(items) <= 1:
        yield from map(work, items)
        return
    import ray.data
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.raise_original_map_exception = True
    context.enable_progress_bars = False
    with DataContext.current(context), _quiet():
        try:
            rows = [{"item": pickle.dumps(item)} for item in items]
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
            for row in dataset.map(_Task(work), num_cpus=1).iter_rows():
                yield pickle.loads(row["result"])
        except Exception as error:
            if (cause := _own_error(error)) is None:
                raise
            raise cause from None


class _Task:
    """A task in Ray Data's form, from row to row."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": pickle.dumps(self.work(pickle.loads(row["item"])))}


def _own_error(error: BaseException) -> Exception | None:
    """Find an error of this project inside an exception that Ray passed on from a worker; None where there is none."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        cause = queue.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        if type(cause) in (InputError, JobError):
            return cause  # type: ignore[return-value]
        if isinstance(cause, FileNotFoundError):
            return InputError(
                f"data.path: a node of the cluster cannot see it ({cause}); put the data on storage that every node "
                "mounts, or give a URL"
            )
        queue += [cause.__cause__, cause.__context__, getattr(cause, "cause", None)]
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's plans and worker tracebacks off the console; its log file has them, and failures are raised."""
    consoles = [(h, h.level) for h in logging.getLogger("ray.data").handlers if isinstance(h, logging.StreamHandler)]
    for handler, _ in consoles:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in consoles:
            handler.setLevel(level)
