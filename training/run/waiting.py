"""What a run waits for while the cluster cannot place its workers: one line a minute, at the start and after a loss.

Ray Train retries without a word. The first worker of a group notes in RUN/workers that the group runs, and the callback
that hears of a lost worker takes the note away; the driver, which sees the directory too, tells when it is missing.
"""

import sys
import time

from flowpairs.training.run.directory import RunDirectory
from flowpairs.training.run.workers import WorkerShape, live_nodes, room

REPORT_EVERY = 60.0  # seconds without workers after which, and after each of which, the wait is told


class Waiting:
    """Tells that workers are missing.

    Args:
        run: the run, whose note an earlier start may have left.
        shape: the workers that were asked for.
    """

    def __init__(self, run: RunDirectory, shape: WorkerShape) -> None:
        self._run, self._shape = run, shape
        run.workers.unlink(missing_ok=True)
        self._heard = time.monotonic()

    def look(self) -> None:
        """Print a line if no worker has run for a minute, or for another one."""
        now = time.monotonic()
        if self._run.workers.is_file():
            self._heard = now
        elif now - self._heard >= REPORT_EVERY:
            self._heard = now
            print(what_is_missing(self._shape, room(live_nodes(), self._shape)), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the note away."""
        self._run.workers.unlink(missing_ok=True)


def what_is_missing(shape: WorkerShape, held: int) -> str:
    """Say what a run without workers waits for.

    Args:
        shape: the workers that were asked for.
        held: the number of such workers that the live nodes can hold, whatever else runs there.
    """
    least = shape.workers if isinstance(shape.workers, int) else shape.workers[0]
    size = f"{shape.cpus} CPUs" + (f" and {shape.gpus} GPUs" if shape.gpus else "")
    asked = f"{least} workers of {size} each asked for"
    if held < least:
        return f"waiting for nodes: {asked}, the nodes that are there hold {held}"
    return f"waiting for workers: {asked}, none runs yet; the nodes hold {held}, unless other jobs take their place"
