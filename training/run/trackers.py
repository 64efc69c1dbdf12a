"""Trackers, which also receive the log of a run: TensorBoard, MLflow, Weights & Biases, through their own clients.

The driver feeds each tracker from metrics.jsonl in a thread of its own, so that no worker waits for a server or needs
its credentials. A server that does not answer delays its own lines only, and the log has them all. The destination is
set as the clients document it: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME; WANDB_PROJECT, WANDB_MODE, wandb login.
"""

import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

from flowpairs.pipeline.base.environment import require
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.progress import repeated
from flowpairs.pipeline.config import leaves
from flowpairs.training.config import TrainConfig
from flowpairs.training.run.directory import RunDirectory, write_json
from flowpairs.training.run.logbook import Follower

CLIENTS = {"mlflow": "mlflow-skinny", "wandb": "wandb"}  # tracker (also the extra's name) -> package to install
PROJECT = "flowpairs"  # the experiment or project if the environment names none
AT_ONCE = 100  # parameters or lines of the log per request; MLflow's limits are 100 parameters and 1,000 numbers


@runtime_checkable
class Tracker(Protocol):
    """A tracker, opened for a new or a resumed run."""

    seen: int  # the last step of the run that the tracker has

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Send lines of the log."""

    def close(self, finished: bool) -> None:
        """Close the tracker at the end of the job; `finished` says whether all steps are done."""


class TensorBoard:
    """The files in RUN/tensorboard/, rewritten from the log at every start, so that lines lost by a kill come back."""

    def __init__(self, config: TrainConfig, run: RunDirectory) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.seen = 0
        self._board = SummaryWriter(str(run.path / "tensorboard"), purge_step=0, flush_secs=10)

    def write(self, lines: list[dict[str, Any]]) -> None:
        """See `Tracker.write`."""
        for line in lines:
            for name, value in _numbers(line).items():
                self._board.add_scalar(name, value, line["step"])

    def close(self, finished: bool) -> None:
        """See `Tracker.close`."""
        self._board.close()


class MLflow:
    """A run on the server that MLFLOW_TRACKING_URI names; its id is kept in RUN/mlflow.json."""

    def __init__(self, config: TrainConfig, run: RunDirectory) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default of 7 takes minutes
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client, note = MlflowClient(), run.path / "mlflow.json"
        if note.is_file():
            self._id = json.loads(note.read_bytes())["run_id"]
            self._client.update_run(self._id, status="RUNNING")
            self.seen = max((point.step for point in self._client.get_metric_history(self._id, "loss")), default=0)
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._id, self.seen = self._client.create_run(experiment, run_name=run.path.name).info.run_id, 0
        parameters = [Param(key, str(value)) for key, value in leaves(config.model_dump(mode="json"))]
        for first in range(0, len(parameters), AT_ONCE):
            self._client.log_batch(self._id, params=parameters[first : first + AT_ONCE])
        write_json(note, {"run_id": self._id})

    def write(self, lines: list[dict[str, Any]]) -> None:
        """See `Tracker.write`."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        for first in range(0, len(lines), AT_ONCE):
            part = lines[first : first + AT_ONCE]
            points = [Metric(k, value, now, line["step"]) for line in part for k, value in _numbers(line).items()]
            self._client.log_batch(self._id, metrics=points)

    def close(self, finished: bool) -> None:
        """See `Tracker.close`."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "FAILED")


class WandB:
    """A run of Weights & Biases; its id is kept in RUN/wandb.json and its files in RUN/wandb/."""

    def __init__(self, config: TrainConfig, run: RunDirectory) -> None:
        import wandb

        note = run.path / "wandb.json"
        if not note.is_file():
            write_json(note, {"id": secrets.token_hex(4)})
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.path.name,
            id=json.loads(note.read_bytes())["id"],
            resume="allow",
            dir=str(run.path),
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(console="off"),
        )
        self.seen = self._run.step - 1  # offline it is 0, and the whole log is sent again

    def write(self, lines: list[dict[str, Any]]) -> None:
        """See `Tracker.write`."""
        for line in lines:
            self._run.log(_numbers(line), step=line["step"])

    def close(self, finished: bool) -> None:
        """See `Tracker.close`."""
        self._run.finish(exit_code=0 if finished else 1)


KINDS: dict[str, Callable[[TrainConfig, RunDirectory], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers whose client is missing, and MLflow without a server.

    Raises:
        InputError: a client is not installed, or MLFLOW_TRACKING_URI is not set.
    """
    require("a training run", "tensorboard")
    for name in names:
        if name not in CLIENTS:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a directory ./wandb, which its client creates, is no package
            raise InputError(
                f"output.trackers: {name} is not installed where the job is driven from; "
                f"pip install 'flowpairs[{name}]' there, which brings {CLIENTS[name]}, or leave it out"
            )
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError(
            "output.trackers: mlflow without MLFLOW_TRACKING_URI in the environment; "
            "set it to the server's address, as in http://HOST:5000, or leave mlflow out"
        )


@contextmanager
def follow(config: TrainConfig, run: RunDirectory) -> Iterator[None]:
    """Feed the trackers that the config names while the body of the `with` runs.

    Raises:
        InputError: a tracker cannot be opened.
    """
    with ExitStack() as stack:
        for name in dict.fromkeys(config.output.trackers):
            stack.enter_context(_fed(name, config, run))
        yield


@contextmanager
def _fed(name: str, config: TrainConfig, run: RunDirectory) -> Iterator[None]:
    try:
        tracker = KINDS[name](config, run)
    except Exception as error:  # every client has its own exceptions
        raise InputError(f"output.trackers: {name}: {_line(error)}; mend it or leave {name} out") from error
    log, waiting, broken = Follower(run.metrics, tracker.seen), list[dict[str, Any]](), False

    def feed() -> None:
        nonlocal broken
        waiting.extend(log.new())
        try:
            if waiting:
                tracker.write(waiting)
        except Exception as error:
            if not broken:
                print(f"{name}: {_line(error)}; training goes on, its log waits", file=sys.stderr, flush=True)
            broken = True
        else:
            waiting.clear()
            broken = False

    finished = False
    try:
        with repeated(feed):
            yield
        finished = True
    finally:
        try:
            tracker.close(finished)
        except Exception as error:
            print(f"{name}: {_line(error)}", file=sys.stderr, flush=True)
        if waiting:
            lost = f"lacks steps {waiting[0]['step']} to {waiting[-1]['step']}; {run.metrics} has them"
            print(f"{name}: {lost}", file=sys.stderr, flush=True)


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of the log, without the step."""
    return {name: value for name, value in line.items() if name != "step"}


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())
