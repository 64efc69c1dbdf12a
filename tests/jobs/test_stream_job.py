"""Couplings and training in one job: steps are taken while blocks are solved, and what dies ends in the same bits."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.couplings import couple_here
from support.processes import outside

from flowpairs.jobs.cli import run
from flowpairs.jobs.stream_config import StreamConfig
from flowpairs.jobs.streaming import stream
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.config import ClusterConfig, load, validate
from flowpairs.training.config import TrainClusterConfig, TrainConfig
from flowpairs.training.run.directory import check_pairs
from flowpairs.training.run.logbook import read_metrics
from flowpairs.training.run.state import FILE
from flowpairs.training.run.workers import WorkerShape, worker_shape
from flowpairs.training.train import interruptible, train

pytestmark = pytest.mark.slow

# Its gate keeps all blocks but the first from their end until the test has seen what it wants; it changes no bit.
COST = """
import time
from pathlib import Path

def gated(x, y):
    while Path({gate!r}).exists() and Path({first!r}).exists():
        time.sleep(0.05)
    return -(x @ y.T)
"""


class Job:
    """Four blocks of 1,024 pairs, 16 steps of 64 each, and 96 steps: an epoch and a half."""

    def __init__(self, root: Path) -> None:
        self.root, self.pairs, self.run, self.gate = root, root / "pairs", root / "run", root / "gate"
        root.mkdir()
        first = self.pairs / "shards" / "pairs-000000.json"
        (root / "gated.py").write_text(COST.format(gate=str(self.gate), first=str(first)))
        self.config: dict[str, Any] = {
            "couple": {
                "data": {"path": "digits", "label": "label"},
                "coupling": {"method": "sinkhorn", "n": 1024, "rel_eps": 0.1, "cost": "gated:gated"},
                "output": {"dir": str(self.pairs), "pairs": 4096, "pairs_per_shard": 512},
                "cluster": {"actors": 1, "cpus_per_actor": 1},
            },
            "train": {
                "model": {"kind": "mlp", "width": 32, "depth": 1},
                "train": {"steps": 96, "batch": 64, "warmup": 5, "ema": 0.9, "log_every": 4, "checkpoint_every": 12},
                "output": {"dir": str(self.run)},
            },
        }

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """The job as a process of its own."""
        path = self.root / "stream.yaml"
        path.write_text(yaml.safe_dump(self.config))
        environment = outside() | {"PYTHONPATH": str(self.root)}
        with subprocess.Popen(
            [sys.executable, "-m", "jobs.stream", str(path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def ends(self) -> tuple[int, str]:
        """Run to the end: exit status, and what was said on stderr."""
        with self.started() as process:
            _, said = process.communicate(timeout=300)
            return process.returncode, said


def until(holds: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "step-000000096" / FILE, weights_only=True)["ema"]


def test_training_steps_while_couplings_run_and_a_killed_job_goes_on(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path / "job")
    job.gate.touch()
    with job.started() as process:
        until(lambda: list(job.run.glob("checkpoints/step-000000012/state.pt")), process)
        assert sorted(path.name for path in job.pairs.glob("shards/*.json")) == [f"pairs-00000{i}.json" for i in (0, 1)]
        assert {line["step"] for line in read_metrics(job.run / "metrics.jsonl")} <= set(range(4, 17, 4))
        os.killpg(process.pid, signal.SIGKILL)
    job.gate.unlink()
    status, said = job.ends()
    assert status == 0, said
    assert [line["step"] for line in read_metrics(job.run / "metrics.jsonl")] == list(range(4, 97, 4))
    assert not (job.pairs / "outline.json").exists()

    # The same pairs coupled here, and then trained on: the same bytes, and the same weights.
    monkeypatch.syspath_prepend(str(job.root))
    whole = validate(StreamConfig, job.config)
    there = whole.couple.model_copy(
        update={"output": whole.couple.output.model_copy(update={"dir": str(tmp_path / "whole")})}
    )
    couple_here(there)
    for path in (tmp_path / "whole" / "shards").glob("*.tar"):
        assert path.read_bytes() == (job.pairs / "shards" / path.name).read_bytes()
    again = load(
        TrainConfig, job.run / "config.yaml", [f"pairs.dir={tmp_path / 'whole'}", f"output.dir={tmp_path / 'run'}"]
    )
    assert again.pairs.source == "stream"
    assert len(check_pairs(again.pairs).shards) == 8
    again = again.model_copy(update={"cluster": TrainClusterConfig(workers=2)})
    train(again)
    ours, theirs = weights(job.run), weights(tmp_path / "run")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5)


def test_couplings_that_fail_end_training(tmp_path: Path, local_ray: None) -> None:
    job = Job(tmp_path / "job")
    job.config["couple"]["coupling"] |= {"max_passes": 1, "tol": 1e-9, "cost": "dot"}
    with pytest.raises(JobError, match="block 0 stopped after 1 passes"):
        stream(validate(StreamConfig, job.config))
    assert not list(job.run.glob("checkpoints/step-*"))


def test_training_that_fails_ends_couplings(tmp_path: Path, local_ray: None) -> None:
    job = Job(tmp_path / "job")
    job.config["couple"]["coupling"]["cost"] = "dot"
    job.config["couple"]["output"]["pairs"] = 4_000_000  # some 3,900 blocks
    job.config["train"]["train"] |= {"lr": 1e30, "log_every": 1}
    with pytest.raises(InputError, match=r"train.lr=1e\+30: the loss is"):
        stream(validate(StreamConfig, job.config))
    assert list(job.pairs.glob("shards/*.json"))
    assert not (job.pairs / "index.json").exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "coupling"]


def test_ctrl_c_is_told_and_keeps_its_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typer makes an exit of it, and Ray Train another one, and a handler of its own that stays."""
    meaning = signal.getsignal(signal.SIGINT)

    def command() -> None:
        with interruptible():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise SystemExit(0)

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as caught:
        run(command)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "interrupted; run the same command again to go on\n"
    assert signal.getsignal(signal.SIGINT) is meaning


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    job.config["couple"]["coupling"]["cost"] = "dot"

    def says(**changes: Any) -> str:
        config = {"couple": dict(job.config["couple"]), "train": dict(job.config["train"])}
        for key, value in changes.items():
            part, name = key.split("_")
            config[part][name] = config[part].get(name, {}) | value
        with pytest.raises(InputError) as caught:
            validate(StreamConfig, config)
        return str(caught.value)

    assert (
        says(train_pairs={"dir": "elsewhere"})
        == "config: train.pairs: are those that couple.output.dir will hold; remove it"
    )
    assert says(couple_coupling={"n": "x"}).startswith("couple.coupling.n='x'")
    assert "give one number" in says(train_cluster={"workers": [1, 2]})
    scaled = {"scale_seconds": 60, "actors": 2, "gpus_per_actor": 1}
    assert "give train.cluster.workers and train.cluster.gpus" in says(couple_cluster=scaled)
    semidiscrete = {"couple_coupling": {"method": "semidiscrete", "cost": "dot"}, "couple_output": {"pairs": 0}}
    assert "nothing to train on" in says(**semidiscrete)
    resolved = validate(StreamConfig, job.config)
    assert resolved.train.pairs.model_dump() == {
        "dir": str(job.pairs),
        "source": "stream",
        "fingerprint": None,
        "patience": None,
    }
    assert validate(StreamConfig, resolved.model_dump(mode="json")) == resolved


def test_how_the_cluster_is_shared(local_ray: None) -> None:
    """Two cores: one each."""
    assert worker_shape(TrainClusterConfig(), ClusterConfig()) == WorkerShape(workers=1, cpus=1, gpus=0)
    with pytest.raises(InputError, match="only 1 such workers fit beside couplings"):
        worker_shape(TrainClusterConfig(workers=2), ClusterConfig())


GPUS = """
import ray
from flowpairs.pipeline.config import ClusterConfig
from flowpairs.pipeline.cluster.connect import actor_shape
from flowpairs.training.config import TrainClusterConfig
from flowpairs.training.run.workers import worker_shape

ray.init(num_cpus=18, num_gpus=4, include_dashboard=False, log_to_driver=False)
for beside in (ClusterConfig(), ClusterConfig(actors=1), ClusterConfig(gpus_per_actor=0)):
    shape = worker_shape(TrainClusterConfig(), beside)
    [node] = ray.nodes()
    taken = {node["NodeID"]: (float(shape.workers * shape.cpus), float(shape.workers * shape.gpus))}
    actors = actor_shape(beside, 64, taken)
    print(shape.workers, shape.cpus, shape.gpus, actors.actors, actors.cpus, actors.gpus)
"""


def test_how_gpus_are_shared() -> None:
    """Logical ones: half each, or all but those that couplings ask for, or all where couplings take cores alone."""
    done = subprocess.run([sys.executable, "-c", GPUS], env=outside(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 4 1 2 5 1.0", "3 4 1 1 6 1.0", "4 2 1 10 1 0.0"]
