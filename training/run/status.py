"""How far a training run is, from its directory alone: it may be running, dead or finished."""

import time
from dataclasses import dataclass
from pathlib import Path

from flowpairs.pipeline.config import load
from flowpairs.training.config import TrainConfig
from flowpairs.training.run.directory import RunDirectory
from flowpairs.training.run.logbook import newest_metrics


@dataclass(frozen=True)
class RunStatus:
    """What the files of a run tell.

    Attributes:
        step, steps: logged last, and to take in all; 0 before the first line of the log.
        loss, pairs_per_second, data_wait: of the log's last line; None before it.
        seconds: of training so far, over all restarts.
        seconds_left: at the pace of the last line; None when unknown, 0 when complete.
        seconds_since_last_line: a run that goes on keeps this below the time of `train.log_every` steps.
        checkpoint: the newest one, relative to the directory, from which the run would resume; None before the first.
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


def read_run_status(directory: Path) -> RunStatus:
    """Read the status of a training run.

    Raises:
        InputError: the directory holds none.
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
