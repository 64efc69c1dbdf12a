"""The status of a training run, from its directory alone; the run may be running, dead or finished."""

import time
from dataclasses import dataclass
from pathlib import Path

from flowpairs.pipeline.config import load
from flowpairs.training.config import TrainConfig
from flowpairs.training.run.directory import RunDirectory
from flowpairs.training.run.logbook import newest_metrics


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    Attributes:
        complete: whether the run is finished.
        step: the last step logged; 0 before the first line of the log.
        steps: the number of steps of the whole run.
        loss: the loss in the last line of the log; None before it, as for the next two.
        pairs_per_second: the pace in that line, over all workers.
        data_wait: the fraction of the time spent waiting for data in that line.
        seconds: the seconds of training so far, over all restarts.
        seconds_left: the remaining seconds at the pace of the last line; None if unknown, 0 if complete.
        seconds_since_last_line: the age of the last line, below the time of `train.log_every` steps while a run works.
        checkpoint: the newest checkpoint, relative to the directory, from which the run would resume; None before the
            first.
    """

    complete: bool
    step: int
    steps: int
    loss: float | None
    pairs_per_second: float | None
    data_wait: float | None
    seconds: float
    seconds_left: float | None
    seconds_since_last_line: float | None
    checkpoint: str | None

    def finished(self, steps: int) -> bool:
        """Return whether nothing is left of a run of so many steps, which may have been fewer when it began."""
        return self.complete and self.steps >= steps


def read_run_status(directory: Path) -> RunStatus:
    """Read the status of a training run.

    Raises:
        InputError: the directory holds no training run.
    """
    run = RunDirectory(directory)
    train = load(TrainConfig, run.config).train
    complete, line = run.summary() is not None, newest_metrics(run.metrics) or {}
    step, pace = line.get("step", 0), line.get("samples_per_s")
    return RunStatus(
        complete=complete,
        step=step,
        steps=train.steps,
        loss=line.get("loss"),
        pairs_per_second=pace,
        data_wait=line.get("data_wait"),
        seconds=line.get("seconds", 0.0),
        seconds_left=0.0 if complete else (train.steps - step) * train.batch / pace if pace else None,
        seconds_since_last_line=time.time() - run.metrics.stat().st_mtime if line else None,
        checkpoint=run.newest_checkpoint(),
    )
