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
from flowpairs.training.run.directory import check_run
from flowpairs.training.run.status import read_run_status
from flowpairs.training.run.trained import read_trained
from flowpairs.training.sample import sample

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MODULE = """
import torch
from torch import nn

print("imported")

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


def config(place: Path, model: dict[str, Any]) -> TrainConfig:
    plain = {
        "pairs": {"dir": str(place / "store")},
        "model": model,
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
    given, run = config(place, {"kind": "my_own_nets:Net", "width": 16}), place / "run"
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
