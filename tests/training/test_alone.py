"""`cluster.workers: 0`: a run in the calling process, without Ray, that goes on after SIGKILL to the same bytes."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.processes import outside
from support.runs import wait_for_checkpoint, weights
from support.stores import write_store
from torch import Tensor, nn

from flowpairs.jobs._dry_run import training_rows
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.config import validate
from flowpairs.training.config import TrainConfig
from flowpairs.training.run.logbook import read_metrics
from flowpairs.training.train import train

STEPS = 3000  # some seconds, so that a signal comes before the end
ALONE = """
import sys
from flowpairs.training.config import TrainConfig
from flowpairs.training.train import train
train(TrainConfig.model_validate_json(sys.argv[1]))
import ray
assert not ray.is_initialized()
"""


class Failing(nn.Module):
    """A network of somebody's own, which fails at its first step as it is told to."""

    def __init__(self, shape: tuple[int, ...], num_classes: int, *, memory: bool = False) -> None:
        super().__init__()
        self.scale, self.memory, self.calls = nn.Parameter(torch.ones(())), memory, 0

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Return x."""
        if self.training and torch.is_grad_enabled() and len(x) == 64:
            if self.memory:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            raise ValueError("no such weather")
        return self.scale * x


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x0 = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    store = tmp_path_factory.mktemp("alone") / "store"
    write_store(store, x0, 2 * x0 + 1, shard_counts=[250, 250, 100])
    return store


def config(store: Path, name: str, **options: Any) -> TrainConfig:
    tree = {
        "pairs": {"dir": str(store)},
        "model": {"kind": "mlp", "width": 32, "depth": 1},
        "train": {"steps": STEPS, "batch": 64, "warmup": 10, "log_every": 50, "checkpoint_every": 100},
        "output": {"dir": str(store.parent / name)},
        "cluster": {"workers": 0, "cpus": 1},
    }
    return validate(TrainConfig, tree | options)


def test_a_killed_run_goes_on_to_the_bytes_of_one_left_alone(store: Path) -> None:
    command = [sys.executable, "-c", ALONE]
    killed, undisturbed = config(store, "killed"), config(store, "undisturbed")
    subprocess.run([*command, undisturbed.model_dump_json()], env=outside(), check=True, timeout=300)
    with subprocess.Popen([*command, killed.model_dump_json()], env=outside()) as process:
        wait_for_checkpoint(Path(killed.output.dir))
        process.send_signal(signal.SIGKILL)
    assert not (Path(killed.output.dir) / "train.json").exists(), "the run was over before the kill"
    subprocess.run([*command, killed.model_dump_json()], env=outside(), check=True, timeout=300)
    ours, theirs = weights(Path(killed.output.dir)), weights(Path(undisturbed.output.dir))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    lines = [read_metrics(Path(each.output.dir) / "metrics.jsonl") for each in (killed, undisturbed)]
    assert len({tuple((line["step"], line["loss"]) for line in log) for log in lines}) == 1


def test_ctrl_c_keeps_the_checkpoints(store: Path) -> None:
    settings = config(store, "interrupted")
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"steps": 1_000_000})})
    run = Path(settings.output.dir)
    path = store.parent / "interrupted.yaml"
    path.write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "flowpairs.jobs.cli", "train", str(path)]
    with subprocess.Popen(command, env=outside(), stderr=subprocess.PIPE, text=True) as process:
        wait_for_checkpoint(run)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert said[-1] == "interrupted; run the same command again to go on"
    assert not (run / "train.json").exists()


def test_threads_are_given_back(store: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert train(config(store, "threads", train={"steps": 4, "batch": 64, "warmup": 0}))["workers"] == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        (False, "ValueError: no such weather; run the same command to resume"),
        (
            True,
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.; give train.accumulate=2 or more, or a "
            "smaller train.batch, and run the same command to resume",
        ),
    ],
)
def test_an_error_in_a_step_is_one_sentence(
    store: Path, memory: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model = {"kind": "test_alone:Failing", "memory": memory}
    with pytest.raises(JobError) as caught:
        train(config(store, f"failing-{memory}", model=model, train={"steps": 4, "batch": 64, "warmup": 0}))
    run = store.parent / f"failing-{memory}"
    assert str(caught.value) == f"training in {str(run)!r} failed: {says}"
    assert caught.value.__cause__ is not None


def test_what_one_process_cannot_do_is_refused(store: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"^cluster.gpus=1: torch sees no CUDA device on this machine"):
            train(config(store, "gpu", cluster={"workers": 0, "gpus": 1}))
    odd = {"steps": 4, "batch": 64, "warmup": 0, "accumulate": 3}
    with pytest.raises(InputError, match=r"^train.batch=64: not divisible by 1 workers with train.accumulate=3"):
        train(config(store, "odd", train=odd))
    assert not (store.parent / "odd").exists()


def test_a_dry_run_says_where(store: Path) -> None:
    rows = dict(training_rows(config(store, "dry")))
    assert rows["trained"] == "in this process"
    assert "still to check" not in rows
    assert not (store.parent / "dry").exists()
