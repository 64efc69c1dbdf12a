"""Batches with random numbers, and finished runs for the tests of what follows: trained without Ray, or not at all."""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowpairs.pipeline.config import save, validate
from flowpairs.training import objectives
from flowpairs.training.config import TrainConfig
from flowpairs.training.objectives import Objective
from flowpairs.training.pairs.batch import Batch, BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.reading.order import arcs_for
from flowpairs.training.run.directory import RunDirectory, check_run, prepare_run, write_json
from flowpairs.training.run.logbook import Logbook, read_metrics
from flowpairs.training.run.loop import train_loop
from flowpairs.training.run.state import FILE, TrainState

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
    """Train in this process, as `flowpairs train` does on one worker of Ray Train, and leave a finished run."""
    config, index = check_run(config)
    run, train = prepare_run(config), config.train
    state = TrainState.start(objectives.build_network(config, index.shape, index.num_classes), train)
    part, log = BatchPart(train.batch, 0, 1, arcs_for(train.batch, 1)), Logbook(run.metrics, 0)
    objective = objectives.build_objective(config, index.num_classes)
    given = (config.pairs.dir, index, part, train.seed, config.model.conditional)
    with ShardLoader(*given, draw=partial(objective.draw, shape=index.shape)) as loader:
        train_loop(state, state.model, loader, objective, train, log.write, lambda metrics: None)
    log.close()
    name = f"step-{train.steps:09d}"
    save_weights(run.path, state, name)
    summary = {"pairs_dir": config.pairs.dir, "method": index.method, "checkpoint": f"checkpoints/{name}"}
    summary |= {"shape": list(index.shape), "num_classes": index.num_classes, "two_sided": index.two_sided}
    last = read_metrics(run.metrics)[-1]
    summary |= {key: last[key] for key in ("loss", "seconds", "samples_per_s", "data_wait")}
    run.finish(summary | {"steps": train.steps, "batch": train.batch, "workers": 1})
    return run.path


def wait_for_checkpoint(run: Path) -> None:
    """Wait until Ray Train has noted a checkpoint, from which a run then goes on."""
    while RunDirectory(run).newest_checkpoint() is None:
        time.sleep(0.02)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a finished run."""
    summary = json.loads((run / "train.json").read_text())
    return torch.load(run / summary["checkpoint"] / FILE, weights_only=True)["ema"]
