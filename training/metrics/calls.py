"""Where the functions of an evaluation run: as tasks on Ray, or in the calling process."""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayTaskError

from flowpairs.pipeline.base.errors import JobError
from flowpairs.pipeline.cluster.scheduler import own_error
from flowpairs.training.run.workers import WorkerShape


class Tasks:
    """Calls functions as Ray tasks.

    Args:
        shape: the size of a task that samples; any other takes one CPU.
    """

    def __init__(self, shape: WorkerShape) -> None:
        self._worker = {"num_cpus": shape.cpus, "num_gpus": shape.gpus}

    def put(self, value: Any) -> Any:
        """Share a value among tasks."""
        return ray.put(value)

    def call(self, function: Callable[..., Any], *given: Any, samples: bool = False, results: int = 1) -> Any:
        """Start a task, and return a reference to each of its results.

        Args:
            function: what the task calls.
            given: its arguments, or references to them.
            samples: whether it samples.
            results: the number of its results.
        """
        remote: Any = ray.remote  # whose types know no options in a dict
        size = self._worker if samples else {"num_cpus": 1}
        return remote(**size, num_returns=results)(function).remote(*given)

    def get(self, results: list[Any]) -> list[Any]:
        """Wait for results.

        Raises:
            InputError, JobError: what a task raised.
        """
        try:
            return ray.get(results)
        except RayTaskError as error:
            raise own_error(error) from None


class Here:
    """Calls functions in this process, by the methods of `Tasks`."""

    def put(self, value: Any) -> Any:
        """Return a value."""
        return value

    def call(self, function: Callable[..., Any], *given: Any, samples: bool = False, results: int = 1) -> Any:
        """Call a function, and return its result.

        Raises:
            InputError, JobError: what it raised; JobError also for memory that is not there.
        """
        try:
            return function(*given)
        except MemoryError as error:
            raise JobError(f"evaluate: out of memory ({error}); give a smaller batch or fewer samples") from error

    def get(self, results: list[Any]) -> list[Any]:
        """Return results."""
        return results
