"""Couplings and training under one command: steps are taken while blocks are solved, what dies ends alike."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml
from support.couplings import couple_here
from support.processes import alive, outside

from flowpairs.jobs._stream_job import stream, with_numbers
from flowpairs.jobs.entry import run_command
from flowpairs.jobs.stream_config import StreamConfig
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.cluster.shapes import ActorShape
from flowpairs.pipeline.config import validate
from flowpairs.pipeline.store.format import read_index, read_outline, write_outline
from flowpairs.training import objectives
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.reading.order import arcs_for
from flowpairs.training.run.directory import STATE_FILE
from flowpairs.training.run.logbook import read_metrics
from flowpairs.training.run.loop import train_loop
from flowpairs.training.run.state import TrainState
from flowpairs.training.run.workers import WorkerShape
from flowpairs.training.train import interruptible

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
    def started(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """The job as a process of its own, with a Ray of its own unless the environment has another."""
        path = self.root / "stream.yaml"
        path.write_text(yaml.safe_dump(self.config))
        with subprocess.Popen(
            [sys.executable, "-m", "flowpairs.jobs.cli", "stream", str(path)],
            env=outside() | environment,
            cwd=self.root,  # where the cost's module lies
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def finish(self, **environment: str) -> tuple[int, str]:
        """Run to the end: exit status, and what was said on stderr."""
        with self.started(**environment) as process:
            _, said = process.communicate(timeout=300)
            return process.returncode, said


def until(holds: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def children(process: int) -> list[int]:
    """Of this process, by /proc."""
    task = Path(f"/proc/{process}/task/{process}/children")
    return list(map(int, task.read_text().split())) if task.exists() else []


def test_training_steps_while_couplings_run_and_a_killed_job_goes_on(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path / "job")
    here = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    job.gate.touch()
    with job.started(**here) as process:
        until(lambda: list(job.run.glob("checkpoints/step-000000012/state.pt")), process)
        assert sorted(path.name for path in job.pairs.glob("shards/*.json")) == [f"pairs-00000{i}.json" for i in (0, 1)]
        assert {line["step"] for line in read_metrics(job.run / "metrics.jsonl")} <= set(range(4, 17, 4))
        both = [child for child in children(process.pid) if b"_children" in Path(f"/proc/{child}/cmdline").read_bytes()]
        assert len(both) == 2
        process.kill()
    while any(alive(child) for child in both):
        time.sleep(0.05)
    job.gate.unlink()
    status, said = job.finish(**here)
    assert status == 0, said
    assert [line["step"] for line in read_metrics(job.run / "metrics.jsonl")] == list(range(4, 97, 4))
    assert not (job.pairs / "outline.json").exists()
    lines = said.splitlines()
    assert any(line.startswith("couple  coupling on 1 actor: 100 %  4/4 blocks") for line in lines)
    assert any(line.startswith("train   training: 100 %  step 96/96") for line in lines)

    # The same pairs coupled here, byte for byte.
    monkeypatch.syspath_prepend(str(job.root))
    whole = validate(StreamConfig, job.config)
    output = whole.couple.output.model_copy(update={"dir": str(tmp_path / "whole")})
    couple_here(whole.couple.model_copy(update={"output": output}))
    shards = sorted((tmp_path / "whole" / "shards").glob("*.tar"))
    assert len(shards) == 8
    for path in shards:
        assert path.read_bytes() == (job.pairs / "shards" / path.name).read_bytes()

    # The weights of a loop without Ray over the finished store.
    outline, part = read_outline(job.pairs), BatchPart(64, 0, 1, arcs_for(64, 1))
    state = TrainState.start(objectives.build_network(whole.train, outline.index.shape, 10), whole.train.train)
    objective = objectives.build_objective(whole.train, 10)
    draw = partial(objective.draw, shape=outline.index.shape)
    with ShardLoader(job.pairs, outline.index, part, 0, outline=outline, draw=draw) as loader:
        train_loop(state, state.model, loader, objective, whole.train.train, lambda line: None, lambda m: None)
    ours = torch.load(job.run / "checkpoints" / "step-000000096" / STATE_FILE, weights_only=True)["ema"]
    for name, value in state.ema.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5)

    # Both are done.
    stream(whole)

    # Beside a run that is finished, a store that is not is completed alone.
    index = read_index(job.pairs)
    (job.pairs / "index.json").unlink()
    write_outline(job.pairs, outline)
    stream(whole)
    assert read_index(job.pairs) == index


@pytest.mark.nightly
def test_training_that_fails_ends_couplings(tmp_path: Path) -> None:
    """By `make test` test_children.py holds that one that fails ends the other, and that its sentence is told.

    And tests/training/test_trainer.py that a fault that a worker finds is the command's own sentence.
    """
    job = Job(tmp_path / "job")
    job.config["couple"]["coupling"]["cost"] = "dot"
    job.config["couple"]["output"]["pairs"] = 4_000_000  # some 3,900 blocks
    job.config["train"]["train"] |= {"lr": 1e30, "log_every": 1}
    status, said = job.finish()
    assert status == 2
    assert said.splitlines()[-1].startswith("error: train: train.lr=1e+30: the loss is")
    assert list(job.pairs.glob("shards/*.json"))
    assert not (job.pairs / "index.json").exists()


@pytest.mark.nightly
def test_couplings_that_fail_end_training(tmp_path: Path) -> None:
    """By `make test` as for the other way round."""
    job = Job(tmp_path / "job")
    job.config["couple"]["coupling"] |= {"max_passes": 1, "tol": 1e-9, "cost": "dot"}
    status, said = job.finish()
    assert status == 1
    assert said.splitlines()[-1].startswith("failed: couple: block 0 stopped after 1 passes")
    assert not list(job.run.glob("checkpoints/step-*"))


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
        run_command(command)
    assert caught.value.code == 130
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
    assert "train.cluster.workers=0: stream shares a cluster" in says(train_cluster={"workers": 0})
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


def test_inputs_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    job.config["couple"]["coupling"]["cost"] = "dot"

    def says(part: str, name: str, **changes: Any) -> str:
        config = {key: dict(value) for key, value in job.config.items()}
        config[part][name] = config[part].get(name, {}) | changes
        with pytest.raises(InputError) as caught:
            stream(validate(StreamConfig, config))
        return str(caught.value)

    assert says("couple", "data", path=str(tmp_path / "absent.npy")).startswith("couple: data.path=")
    assert says("couple", "coupling", n=4000).startswith("couple: coupling.n=4000: larger than the data set")
    assert says("train", "train", batch=5000).startswith("train: train.batch=5000: more than the 4096 pairs")
    assert says("train", "train", warmup=97).startswith("train: train.warmup=97: longer than train.steps=96")
    assert "couple.cluster.actors=0: stream shares a cluster" in says("couple", "cluster", actors=0)
    assert says("train", "cluster", workers=3).startswith("train: train.batch=64: not divisible by 3 workers")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert "not a training run" in says("train", "output", dir=str(tmp_path / "other"))
    assert "not a pair store" in says("couple", "output", dir=str(tmp_path / "other"))
    assert not job.pairs.exists()
    assert not job.run.exists()


def test_both_jobs_get_numbers_and_ask_for_no_nodes(tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    job.config["couple"]["coupling"]["cost"] = "dot"
    job.config["couple"]["cluster"] |= {"gpus_per_actor": 0, "scale_seconds": 60}
    job.config["train"]["cluster"] = {"workers": 1, "gpus": 0}
    config = validate(StreamConfig, job.config)
    fixed = with_numbers(config, WorkerShape(1, 3, 0), ActorShape(1, 2, 0.0))
    assert fixed.couple.determining() == config.couple.determining()
    assert fixed.train.determining() == config.train.determining()
    asked = fixed.couple.cluster
    assert (asked.actors, asked.cpus_per_actor, asked.gpus_per_actor, asked.scale_seconds) == (1, 2, 0, 0)
    assert (fixed.train.cluster.workers, fixed.train.cluster.cpus, fixed.train.cluster.gpus) == (1, 3, 0)


# Puts actors and workers on logical CPUs and GPUs, either first, in the numbers that they are to share them by.
TOGETHER = """
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from flowpairs.pipeline.config import ClusterConfig
from flowpairs.training.config import TrainClusterConfig
from flowpairs.training.run.sharing import share_nodes
from flowpairs.training.run.workers import live_nodes

ray.init("local", num_cpus=18, num_gpus=4, include_dashboard=False, log_to_driver=False)
for beside in (ClusterConfig(), ClusterConfig(actors=1), ClusterConfig(gpus_per_actor=0)):
    workers, actors = share_nodes(live_nodes(), TrainClusterConfig(), beside, 64)
    print(workers.workers, workers.cpus, workers.gpus, actors.actors, actors.cpus, actors.gpus)
    ours = [{"CPU": workers.cpus, "GPU": workers.gpus}] * workers.workers
    theirs = [{"CPU": actors.cpus, "GPU": actors.gpus} if actors.gpus else {"CPU": actors.cpus}] * actors.actors
    for first, second in ((ours, theirs), (theirs, ours)):
        groups = [placement_group(first, strategy="PACK"), placement_group(second, strategy="PACK")]
        assert all(group.wait(30) for group in groups)
        for group in groups:
            remove_placement_group(group)
"""


@pytest.mark.nightly
def test_ray_finds_room_for_both() -> None:
    """Half of the GPUs each, or all but those that couplings ask for, or all where couplings take cores alone."""
    done = subprocess.run([sys.executable, "-c", TOGETHER], env=outside(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 4 1 2 5 1.0", "3 4 1 1 6 1.0", "4 2 1 10 1 0.0"]
