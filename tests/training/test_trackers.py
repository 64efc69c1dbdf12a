"""The log of a run as TensorBoard, MLflow and Weights & Biases have it, each read back through its own software."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.config import validate
from flowpairs.training.config import TrainConfig
from flowpairs.training.run import trackers
from flowpairs.training.run.directory import RunDirectory
from flowpairs.training.run.logbook import Logbook
from flowpairs.training.run.loop import LogLine


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """The directory of a run, and trackers that keep what they get in files beside it."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "run").mkdir()
    return RunDirectory(tmp_path / "run")


def config(run: RunDirectory, *names: str) -> TrainConfig:
    plain = {"pairs": "pairs", "model": {"kind": "mlp"}, "train": {"steps": 100}}
    return validate(TrainConfig, {**plain, "output": {"dir": str(run.path), "trackers": names}})


def write(run: RunDirectory, first: int, last: int) -> None:
    """Log steps first, first + 10, ..., last, as a worker that starts from a checkpoint at first - 10 does."""
    log = Logbook(run.metrics, first - 10)
    for step in range(first, last + 1, 10):
        log.write(LogLine(step, loss(step), 1.0, 1e-3, 1e5, 0.0, step / 100))
    log.close()


def loss(step: int) -> float:
    return 1 / step


def of_tensorboard(run: RunDirectory) -> list[tuple[int, float]]:
    board = EventAccumulator(str(run.path / "tensorboard"))
    board.Reload()
    return [(point.step, point.value) for point in board.Scalars("loss")]


def of_mlflow(run: RunDirectory) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    name = json.loads((run.path / "mlflow.json").read_text())["run_id"]
    client = MlflowClient()
    told = client.get_run(name)
    assert (told.info.run_name, told.info.status, told.data.params["train.steps"]) == ("run", "FINISHED", "100")
    return [(point.step, point.value) for point in client.get_metric_history(name, "loss")]


@pytest.mark.parametrize(("name", "read"), [("tensorboard", of_tensorboard), ("mlflow", of_mlflow)])
def test_a_run_that_died_and_was_resumed_is_one_run_with_every_step_once(run: RunDirectory, name: str, read: Any):
    """It had logged step 70 when it died, and its checkpoint was of step 40."""

    def die() -> None:
        write(run, 10, 70)
        raise JobError("workers died")

    with pytest.raises(JobError), trackers.follow(config(run, name), run):
        die()
    time.sleep(1.1)  # TensorBoard tells files of one process apart, and orders them, by the second of their start
    with trackers.follow(config(run, name), run):
        write(run, 50, 100)
    steps = range(10, 101, 10)
    assert read(run) == [(step, pytest.approx(loss(step))) for step in steps]


def test_wandb_gets_the_log_offline(run: RunDirectory) -> None:
    pytest.importorskip("wandb")
    with trackers.follow(config(run, "wandb"), run):
        write(run, 10, 100)
    [file] = run.path.glob("wandb/offline-run-*/run-*.wandb")
    assert file.stem == f"run-{json.loads((run.path / 'wandb.json').read_text())['id']}"
    logged, deadline = {step: loss(step) for step in range(10, 101, 10)}, time.monotonic() + 20
    while wandb_losses(file.read_bytes()) != logged and time.monotonic() < deadline:
        time.sleep(0.05)  # its service may write the file a moment after it said that it had
    assert wandb_losses(file.read_bytes()) == logged


def wandb_losses(file: bytes) -> dict[int, float]:
    """Step -> loss, of the protobuf records in a file of LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, at, text = {}, 7, b""
    while at + 7 <= len(file):
        if 2**15 - at % 2**15 < 7:  # what is left of a block and holds no header
            at += 2**15 - at % 2**15
            continue
        size, kind = int.from_bytes(file[at + 4 : at + 6], "little"), file[at + 6]
        text = (b"" if kind in (1, 2) else text) + file[at + 7 : at + 7 + size]  # 1: whole, 2: first part, 4: last
        at += 7 + size
        if kind in (1, 4):
            history = Record.FromString(text).history
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in history.item}
            if items:
                found[history.step.num] = items["loss"]
    return found


def test_what_a_server_missed_while_it_was_away_it_gets_when_it_is_back(
    run: RunDirectory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with trackers.follow(config(run, "mlflow"), run):
        (tmp_path / "mlflow").rename(tmp_path / "away")
        write(run, 10, 50)
        said, deadline = "", time.monotonic() + 20
        while "training goes on" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capfd.readouterr().err
        assert said.startswith("mlflow: ")
        assert len(said.splitlines()) == 1
        (tmp_path / "away").rename(tmp_path / "mlflow")
        write(run, 60, 100)
    assert [step for step, _ in of_mlflow(run)] == list(range(10, 101, 10))


def test_what_cannot_be_tracked_is_said_before_training(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(InputError, match=r"^output\.trackers: mlflow: .*; mend it or leave mlflow out$"),
        trackers.follow(config(run, "mlflow"), run),
    ):
        pytest.fail("a server that is not there was opened")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(InputError, match=r"mlflow without MLFLOW_TRACKING_URI"):
        trackers.check_trackers(("mlflow",))
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
        with pytest.raises(InputError, match=rf"{name} is not installed .*; pip install 'flowpairs\[{name}\]'"):
            trackers.check_trackers((name,))
    with pytest.raises(InputError, match=r"output\.trackers"):
        config(run, "aim")
