"""Checkpoints are written while the steps go on, and a kill at any moment leaves no trace in the weights."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.processes import actors
from support.stores import write_store

from flowpairs.pipeline.base.errors import JobError
from flowpairs.pipeline.config import validate
from flowpairs.training import models
from flowpairs.training.config import MLPConfig, OptimisationConfig, TrainConfig
from flowpairs.training.run.directory import STATE_FILE, RunDirectory
from flowpairs.training.run.logbook import read_metrics
from flowpairs.training.run.state import TrainState, write_checkpoint
from flowpairs.training.train import train

STEPS, EVERY = 120, 4
DEADLINE = 60.0  # seconds in which a killer meets its moment


def begun(seed: int = 0) -> TrainState:
    """A state after two steps of a loss of its own."""
    config = OptimisationConfig(steps=2)
    state = TrainState.start(models.build_model(MLPConfig(kind="mlp", width=64, depth=1), (3,), 0, seed), config)
    for _ in range(2):
        step(state)
    return state


def step(state: TrainState) -> None:
    state.optimiser.zero_grad()
    state.model(torch.zeros(4), torch.ones(4, 3)).square().mean().backward()
    state.optimiser.step()
    state.average(OptimisationConfig(steps=2))
    state.step += 1


def flat(tree: Any) -> list[Any]:
    """The leaves of nested dicts and lists in order; tensors as lists of numbers."""
    if isinstance(tree, dict | list):
        values = tree.values() if isinstance(tree, dict) else tree
        return [leaf for value in values for leaf in flat(value)]
    return [tree.tolist()] if isinstance(tree, torch.Tensor) else [tree]


def test_a_copy_of_the_state_stays_as_it_is_while_the_state_goes_on(tmp_path: Path) -> None:
    state = begun()
    tree = state.tree()
    before = flat(tree)
    step(state)
    assert flat(tree) == before
    assert flat(state.tree()) != before
    write_checkpoint(tree, tmp_path)
    again = begun(seed=1)
    again.load(tmp_path)
    assert flat(again.tree()) == before


def test_a_loaded_state_does_not_live_in_its_file(tmp_path: Path) -> None:
    """Ray Train deletes old checkpoints, also under a process on another node that has mapped one."""
    state, again = begun(), begun(seed=1)
    state.save(tmp_path)
    again.load(tmp_path)
    with (tmp_path / STATE_FILE).open("r+b") as file:
        size = len(file.read())
        file.seek(0)
        file.write(b"\xff" * size)
    assert flat(again.tree()) == flat(state.tree())


def test_a_directory_that_takes_no_files_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "step").write_text("in the way")
    with pytest.raises((JobError, FileExistsError)):
        write_checkpoint(begun().tree(), tmp_path / "step")
    assert [path.name for path in tmp_path.iterdir()] == ["step"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x0 = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    store = tmp_path_factory.mktemp("checkpoints") / "store"
    write_store(store, x0, 2 * x0 + 1, shard_counts=[250, 250, 100])
    return store


def config(store: Path, name: str) -> TrainConfig:
    """A network of 2.6 million weights, so that a checkpoint takes longer to write than a step."""
    tree = {
        "pairs": {"dir": str(store)},
        "model": {"kind": "mlp", "width": 512, "depth": 3},
        "path": {"kind": "cfm", "sigma": 0.1},
        "train": {"steps": STEPS, "batch": 32, "log_every": EVERY, "checkpoint_every": EVERY, "schedule": "cosine"},
        "output": {"dir": str(store.parent / name)},
        "cluster": {"workers": 1, "cpus": 1},
    }
    return validate(TrainConfig, tree)


def ended(run: Path) -> dict[str, Any]:
    """What the last checkpoint holds."""
    checkpoint = json.loads((run / "train.json").read_text())["checkpoint"]
    return torch.load(run / checkpoint / STATE_FILE, weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(store: Path, local_ray: None) -> Path:
    train(config(store, "undisturbed"))
    return store.parent / "undisturbed"


def writing(run: Path) -> bool:
    """Whether a checkpoint is being written, after one that Ray Train has noted."""
    return RunDirectory(run).newest_checkpoint() is not None and any(
        run.glob(f"checkpoints/step-*/.{STATE_FILE}.*.tmp")
    )


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_the_bytes_of_a_run_that_was_left_alone(undisturbed: Path, store: Path) -> None:
    """Twice, in the middle of writing a checkpoint: weights, average, optimiser and log."""
    settings = config(store, "killed")
    run, killed = Path(settings.output.dir), list[int]()

    def killer() -> None:
        last = time.monotonic() + DEADLINE
        while len(killed) < 2 and time.monotonic() < last and not (run / "train.json").exists():
            found = actors("RayTrainWorker")
            if found and found[0] not in killed and writing(run):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
            time.sleep(0.001)

    thread = threading.Thread(target=killer, daemon=True)
    thread.start()
    train(settings)
    thread.join()
    assert killed, "the run was over before the kill"
    found, truth = ended(run), ended(undisturbed)
    assert found["step"] == STEPS
    for key in ("model", "ema", "optimiser", "loader"):
        assert flat(found[key]) == flat(truth[key]), key
    lines, expected = (read_metrics(path / "metrics.jsonl") for path in (run, undisturbed))
    assert [(line["step"], line["loss"], line["lr"]) for line in lines] == [
        (line["step"], line["loss"], line["lr"]) for line in expected
    ]
