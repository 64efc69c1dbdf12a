"""Batches with random numbers, and finished runs for the tests of what follows: trained without Ray, or not at all."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

from flowpairs.pipeline.config import save, validate
from flowpairs.training import objectives
from flowpairs.training.config import TrainClusterConfig, TrainConfig
from flowpairs.training.objectives import Objective
from flowpairs.training.pairs.batch import Batch
from flowpairs.training.run.directory import STATE_FILE, RunDirectory, write_json
from flowpairs.training.run.state import TrainState
from flowpairs.training.train import train

MLP: dict[str, Any] = {"kind": "mlp", "width": 16, "depth": 1}
UNET: dict[str, Any] = {"kind": "unet", "channels": [8, 16], "layers": 1}
DIT: dict[str, Any] = {"kind": "dit", "patch": 2, "width": 16, "depth": 1, "heads": 2}
SF2M: dict[str, Any] = {"path": {"kind": "sb", "sigma": 0.5}, "objective": {"kind": "sf2m"}}
MEANFLOW: dict[str, Any] = {"objective": {"kind": "meanflow"}}


def drawn(objective: Objective, batch: Batch, step: int) -> Batch:
    """A batch with what the loader of a run draws for it at a step."""
    return dataclasses.replace(batch, drawn=objective.draw(step, batch.rows, tuple(batch.x1.shape[1:])))


def write_run(
    directory: Path,
    model: dict[str, Any],
    shape: tuple[int, ...],
    *,
    classes: int = 0,
    dropout: float = 0.0,
    method: str = "exact",
    pairs: str = "gone",
    two_sided: bool = False,
    **changes: Any,
) -> TrainConfig:
    """What `flowpairs train` leaves that is read again; `classes` makes the network conditional.

    The weights are away from their start, and nothing is trained.
    """
    plain = {"pairs": {"dir": pairs}, "model": {**model, "conditional": classes > 0}, "output": {"dir": str(directory)}}
    config = validate(TrainConfig, plain | {"train": {"steps": 10, "label_dropout": dropout}} | changes)
    state = TrainState.start(objectives.build_network(config, shape, classes), config.train)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in state.ema.parameters():  # away from DiT's zero start, and from what is not averaged
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    save_weights(directory, state, "step-000000010")
    save(config, RunDirectory(directory).config, "a test's")
    summary = {"pairs_dir": pairs, "checkpoint": "checkpoints/step-000000010", "method": method, "two_sided": two_sided}
    write_json(directory / "train.json", {**summary, "shape": list(shape), "num_classes": classes})
    return config


def save_weights(directory: Path, state: TrainState, name: str) -> None:
    checkpoint = directory / "checkpoints" / name
    checkpoint.mkdir(parents=True)
    state.save(checkpoint)


def train_here(config: TrainConfig) -> Path:
    """Train in this process, and return the directory of the run."""
    train(config.model_copy(update={"cluster": TrainClusterConfig(workers=0)}))
    return Path(config.output.dir).absolute()


def wait_for_checkpoint(run: Path) -> None:
    """Wait until Ray Train has noted a checkpoint, from which a run then goes on."""
    while RunDirectory(run).newest_checkpoint() is None:
        time.sleep(0.02)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a finished run."""
    summary = json.loads((run / "train.json").read_text())
    return torch.load(run / summary["checkpoint"] / STATE_FILE, weights_only=True)["ema"]
