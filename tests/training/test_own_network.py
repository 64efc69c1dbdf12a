"""Networks of the user's own: trained by Ray Train, asked with consent, and refused before anything starts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.processes import outside
from support.runs import UNET, weights, write_run
from support.stores import write_store

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import load, save, validate
from flowpairs.training.config import EvaluateConfig, OwnConfig, SampleConfig, TrainConfig
from flowpairs.training.evaluate import evaluate
from flowpairs.training.export.write import export
from flowpairs.training.objectives import Sample, build_objective
from flowpairs.training.run.directory import check_run
from flowpairs.training.run.status import read_run_status
from flowpairs.training.run.trained import read_trained
from flowpairs.training.sample import sample

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MODULE = """
from dataclasses import dataclass

import torch
from flowpairs.training.objectives import Objective
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, num_classes, width=8):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(shape[0] + 1, width), nn.SiLU(), nn.Linear(width, shape[0]))

    def forward(self, t, x, label=None):
        return self.inner(torch.cat([x, t[:, None]], 1))

class Flat(Net):
    def forward(self, t, x, label=None):
        return x.sum(1)

class Broken(Net):
    def forward(self, t, x, label=None):
        raise RuntimeError("no such thing")

@dataclass(frozen=True)
class Huber(Objective):
    delta: float = 1.0

    def errors(self, model, bare, sample):
        off = model(sample.t, sample.x, sample.label) - sample.velocity
        return torch.nn.functional.huber_loss(off, torch.zeros_like(off), "none", self.delta).flatten(1).mean(1)

class OneNumber(Objective):
    def errors(self, model, bare, sample):
        return super().errors(model, bare, sample).mean()

def function(shape, num_classes):
    return None
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the module lies, and a store of pairs (x, 2 x + 1) in the plane."""
    (tmp_path / "my_own_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_nets", raising=False)
    x0 = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    write_store(tmp_path / "store", x0, 2 * x0 + 1)
    return tmp_path


def config(place: Path, model: dict[str, Any], objective: dict[str, Any] | None = None) -> TrainConfig:
    plain = {
        "pairs": {"dir": str(place / "store")},
        "model": model,
        "objective": objective or {"kind": "velocity"},
        "train": {"steps": 60, "batch": 64, "warmup": 5, "lr": 0.02, "ema": 0.9, "log_every": 20},
        "output": {"dir": str(place / "run"), "trackers": []},
        "cluster": {"workers": 1},
    }
    return validate(TrainConfig, plain)


def flowpairs(*arguments: Any, path: Path) -> str:
    """Run a command with a directory of modules on the path, and Ray of its own; return what it prints."""
    command = [sys.executable, "-m", "flowpairs.jobs.cli", *map(str, arguments)]
    environment = outside() | {"PYTHONPATH": str(path), "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_class_named_as_the_kind_trains_and_is_asked_with_consent(place: Path) -> None:
    run, huber = place / "run", {"kind": "my_own_nets:Huber", "delta": 0.5}
    given = config(place, {"kind": "my_own_nets:Net", "width": 16}, huber)
    assert given.objective.args == {"delta": 0.5}
    assert given.model == OwnConfig(kind="own", network="my_own_nets:Net", args={"width": 16})
    save(given, place / "train.yaml", "a test")
    flowpairs("train", place / "train.yaml", path=place)
    assert weights(run)["inner.0.weight"].shape == (16, 3)
    assert load(TrainConfig, run / "config.yaml").model == given.model

    assert read_run_status(run).finished
    for ask in (
        lambda: evaluate(run, EvaluateConfig(samples=64)),
        lambda: sample(run, SampleConfig(samples=4), place / "samples.npz"),
        lambda: read_trained(run).network(torch.device("cpu")),
    ):
        with pytest.raises(InputError, match=r"its network is my_own_nets:Net, code of whoever.*--trust"):
            ask()
    with pytest.raises(InputError, match="whose code export cannot pack"):
        export(run, place / "export", "mit")
    assert "my_own_nets" not in sys.modules, "nothing of the run was imported"

    report = flowpairs("evaluate", run, "samples=64", "euler=[1]", "--trust", "--json", path=place)
    assert json.loads(report)["samples"] == 64
    assert sample(run, SampleConfig(samples=4), place / "samples.npz", trust=True) > 0


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"kind": "no_such_nets:Net"}, "cannot be imported .ModuleNotFoundError"),
        ({"kind": "my_own_nets:Missing"}, "cannot be imported .AttributeError"),
        ({"kind": "my_own_nets:function"}, "is no class of torch modules"),
        ({"kind": "my_own_nets:Net", "depth": 3}, "failed with .*depth=3.*unexpected keyword"),
        ({"kind": "my_own_nets:Flat"}, r"returns \[2\] for x of shape \[2, 2\]"),
        ({"kind": "my_own_nets:Broken"}, "failed on two rows: RuntimeError: no such thing"),
        ({"kind": "my_own_nets:Net", "conditional": True}, "the pairs carry no labels"),
    ],
)
def test_what_is_no_network_is_refused_before_anything_starts(place: Path, model: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_run(config(place, model))
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        ({"kind": "no_such_nets:Huber"}, r"objective\.objective='no_such_nets:Huber': cannot be imported"),
        ({"kind": "my_own_nets:Net"}, "does not extend flowpairs.training.objectives.Objective"),
        ({"kind": "my_own_nets:Huber", "gamma": 1}, "failed with .*gamma"),
        ({"kind": "my_own_nets:OneNumber"}, r"`errors` returns \[\] for 2 rows"),
    ],
)
def test_what_is_no_objective_is_refused_before_anything_starts(place: Path, objective: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_run(config(place, {"kind": "mlp", "width": 8, "depth": 1}, objective))
    assert not (place / "run").exists()


def test_an_objective_of_ones_own_is_what_training_takes(place: Path) -> None:
    made = build_objective(config(place, {"kind": "mlp"}, {"kind": "my_own_nets:Huber", "delta": 0.5}), 0)
    one = torch.ones(2, 1)
    sample = Sample(torch.ones(2), None, torch.zeros(2, 2), torch.tensor([[0.1, 0.1], [4.0, 4.0]]), None, one, None)
    errors = made.errors(lambda t, x, label: x, None, sample)
    torch.testing.assert_close(errors, torch.tensor([0.5 * 0.1**2, 0.5 * (4 - 0.25)]))


def test_a_name_that_is_none_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match=r"model\.network"):
        config(place, {"kind": "own", "network": "my own nets"})


def test_the_example_of_lora_changes_the_attention_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "first", UNET, (1, 8, 8))
    network: Any = read_trained(tmp_path / "first").network(torch.device("cpu"))
    network.unet.save_pretrained(tmp_path / "unet")
    x0 = np.random.default_rng(0).normal(size=(128, 1, 8, 8)).astype(np.float32)
    write_store(tmp_path / "store", x0, x0 / 2)
    model = {"kind": "lora_unet:LoRAUNet", "pretrained": str(tmp_path / "unet"), "rank": 2}
    save(config(tmp_path, model), tmp_path / "train.yaml", "a test")
    flowpairs("train", tmp_path / "train.yaml", "train.steps=20", path=EXAMPLES)
    after, before = weights(tmp_path / "run"), network.unet.state_dict()
    frozen = [name for name in after if ".up." not in name and ".down." not in name]
    assert len(frozen) == len(before)
    assert all(torch.equal(after[name], before[name.removeprefix("unet.").replace(".layer.", ".")]) for name in frozen)
    assert any(bool(after[name].any()) for name in after if ".up." in name)
