"""Finished runs for the tests of what comes after training: weights away from their start, and nothing trained."""

import time
from pathlib import Path
from typing import Any

import torch

from flowpairs.pipeline.config import save, validate
from flowpairs.training import objectives
from flowpairs.training.config import TrainConfig
from flowpairs.training.run.directory import RunDirectory, write_json
from flowpairs.training.run.state import TrainState

MLP: dict[str, Any] = {"kind": "mlp", "width": 16, "depth": 1}
UNET: dict[str, Any] = {"kind": "unet", "channels": [8, 16], "layers": 1}
DIT: dict[str, Any] = {"kind": "dit", "patch": 2, "width": 16, "depth": 1, "heads": 2}
SF2M: dict[str, Any] = {"path": {"kind": "sb", "sigma": 0.5}, "objective": {"kind": "sf2m"}}
MEANFLOW: dict[str, Any] = {"objective": {"kind": "meanflow"}}


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
    """What `flowpairs train` leaves that is read again; `classes` makes the network conditional."""
    plain = {"pairs": {"dir": pairs}, "model": {**model, "conditional": classes > 0}, "output": {"dir": str(directory)}}
    config = validate(TrainConfig, plain | {"train": {"steps": 10, "label_dropout": dropout}} | changes)
    state = TrainState.start(objectives.build_network(config, shape, classes), config.train)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in state.ema.module.parameters():  # away from DiT's zero start, and from what is not averaged
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    checkpoint = directory / "checkpoints" / "step-000000010"
    checkpoint.mkdir(parents=True)
    state.save(checkpoint)
    save(config, RunDirectory(directory).config, "a test's")
    summary = {"pairs_dir": pairs, "checkpoint": "checkpoints/step-000000010", "method": method, "two_sided": two_sided}
    write_json(directory / "train.json", {**summary, "shape": list(shape), "num_classes": classes})
    return config


def wait_for_checkpoint(run: Path) -> None:
    while not list(run.glob("checkpoints/step-*/state.pt")):
        time.sleep(0.02)
