"""Nodes that a run lacks at its start or loses: it says what it waits for, and ends in the same weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.processes import outside
from support.runs import train_here, weights
from support.stores import write_store

from flowpairs.pipeline.config import validate
from flowpairs.training.config import TrainConfig
from flowpairs.training.run.directory import RunDirectory
from flowpairs.training.run.logbook import read_metrics
from flowpairs.training.run.waiting import Waiting, what_is_missing
from flowpairs.training.run.workers import WorkerShape

STEPS = 6000  # still at work when the node is killed, after the first checkpoint

# A run of two workers on two raylets of one core. At its start something else holds a core, until the run has said that
# it waits. After its first checkpoint a raylet dies; another one comes when the run has said that it waits again.
PROGRAM = """
import os, signal, sys, threading, time
sys.path[:0] = ["tests"]
from pathlib import Path
import ray
from support.processes import add_raylet, two_raylets
from support.runs import wait_for_checkpoint
from flowpairs.training.config import TrainConfig
from flowpairs.training.run import waiting
from flowpairs.training.train import train

cluster, other = two_raylets()
config, told = TrainConfig.model_validate_json(sys.argv[1]), []
run, missing, waiting.REPORT_EVERY = Path(config.output.dir), waiting.what_is_missing, 3.0

def tell(*arguments):
    told.append(missing(*arguments))
    return told[-1]

waiting.what_is_missing = tell

@ray.remote(num_cpus=1)
class Tenant:
    def here(self):
        pass

tenant = Tenant.remote()
ray.get(tenant.here.remote())

def disturb():
    while not told:
        time.sleep(0.1)
    ray.kill(tenant)
    wait_for_checkpoint(run)
    os.kill(other.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    while not [line for line in told if "nodes" in line.partition(":")[0]]:
        time.sleep(0.1)
    assert not (run / "train.json").exists()
    add_raylet(cluster)

threading.Thread(target=disturb, daemon=True).start()
train(config)
assert not (run / "workers").exists()
os._exit(0)  # the test cluster's own shutdown minds that one of its processes is gone
"""


@pytest.fixture
def settings(tmp_path: Path) -> TrainConfig:
    x0 = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    write_store(tmp_path / "store", x0, 2 * x0 + 1, shard_counts=[250, 250, 100])
    plain = {
        "pairs": {"dir": str(tmp_path / "store")},
        "model": {"kind": "mlp", "width": 32, "depth": 1},
        "train": {"steps": STEPS, "batch": 64, "warmup": 10, "ema": 0.9, "log_every": 10, "checkpoint_every": 100},
        "output": {"dir": str(tmp_path / "run")},
        "cluster": {"workers": 2},
    }
    return validate(TrainConfig, plain)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_run_waits_for_its_nodes_says_so_and_ends_in_the_same_weights(settings: TrainConfig, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, settings.model_dump_json()]
    environment = outside() | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
    ended = subprocess.run(command, env=environment, check=True, timeout=300, stderr=subprocess.PIPE, text=True)
    told = [line for line in ended.stderr.splitlines() if line.startswith("waiting for ")]
    asked = "2 workers of 1 CPUs each asked for"
    assert (
        told[0] == f"waiting for workers: {asked}, none runs yet; the nodes hold 2, unless other jobs take their place"
    )
    assert f"waiting for nodes: {asked}, the nodes that are there hold 1" in told
    alone = train_here(
        settings.model_copy(update={"output": settings.output.model_copy(update={"dir": str(tmp_path / "alone")})})
    )
    ours, theirs = weights(tmp_path / "run"), weights(alone)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5)
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == list(range(10, STEPS + 1, 10))


def test_the_wait_is_told_once_a_minute_while_no_worker_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = 0.0
    monkeypatch.setattr("flowpairs.training.run.waiting.time.monotonic", lambda: seconds)
    monkeypatch.setattr("flowpairs.training.run.waiting.live_nodes", lambda: [(4, 0.0)])
    run = RunDirectory(tmp_path)
    run.workers.write_text("left by a start that was killed")
    waiting, told = Waiting(run, WorkerShape((2, 4), 4, 0)), []
    for seconds in range(0, 400, 10):
        if seconds == 150:
            run.workers.write_text("2\n")
        if seconds == 250:
            run.workers.unlink()
        waiting.look()
        if capsys.readouterr().err:
            told.append(seconds)
    assert told == [60, 120, 300, 360]


def test_what_is_missing_depends_on_the_nodes_that_are_there() -> None:
    shape = WorkerShape((2, 8), 6, 1)
    asked = "2 workers of 6 CPUs and 1 GPUs each asked for"
    assert what_is_missing(shape, 1) == f"waiting for nodes: {asked}, the nodes that are there hold 1"
    assert what_is_missing(shape, 2).startswith(f"waiting for workers: {asked}, none runs yet")
