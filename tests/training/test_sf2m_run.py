"""A training of [SF]2M by two workers against a plain loop in this process, and its samples."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import weights
from support.stores import write_store

from flowpairs.pipeline.config import validate
from flowpairs.training import objectives
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.evaluate import evaluate
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.run import loop
from flowpairs.training.run.logbook import read_metrics
from flowpairs.training.run.state import TrainState
from flowpairs.training.train import train


@pytest.mark.nightly
@pytest.mark.usefixtures("local_ray")
def test_sf2m_with_guidance_trains_on_two_workers_as_on_one_and_is_sampled(tmp_path: Path) -> None:
    """Noise, times and hidden labels follow from (seed, step) over the global batch."""
    x0 = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
    index = write_store(tmp_path / "store", x0, 2 * x0, labels=np.arange(600) % 3)
    plain = {
        "pairs": {"dir": str(tmp_path / "store")},
        "model": {"kind": "mlp", "width": 32, "depth": 1, "conditional": True},
        "path": {"kind": "sb", "sigma": 0.5},
        "objective": {"kind": "sf2m"},
        "loss": {"time": "bridge"},
        "train": {"steps": 30, "batch": 64, "warmup": 10, "ema": 0.9, "log_every": 10, "checkpoint_every": 40}
        | {"label_dropout": 0.2},
        "output": {"dir": str(tmp_path / "run")},
        "cluster": {"workers": 2},
    }
    settings = validate(TrainConfig, plain)
    train(settings)

    state = TrainState.start(objectives.build_network(settings, (2,), 3), settings.train)
    lines, part = list[loop.LogLine](), BatchPart(64, 0, 1, 8)
    objective = objectives.build_objective(settings, 3)
    draw = partial(objective.draw, shape=index.shape)
    with ShardLoader(tmp_path / "store", index, part, 0, labels=True, draw=draw) as loader:
        loop.train_loop(state, state.model, loader, objective, settings.train, lines.append, lambda metrics: None)
    ours = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    np.testing.assert_allclose(ours, [line.loss for line in lines], rtol=1e-4)
    for key, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(value, state.ema.state_dict()[key], rtol=1e-3, atol=1e-5)

    asked = EvaluateConfig(samples=64, euler=(2,), sde=(4,), guidance=2.0)
    report = evaluate(tmp_path / "run", asked)
    assert [(row["solver"], row["nfe"]) for row in report["frechet"][:2]] == [("euler", 2), ("sde", 4)]
    assert report["guidance"] == 2.0
