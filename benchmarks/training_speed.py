"""Samples a second of training on stored pairs, against a bare torch loop and against torchcfm's coupling in the loop.

    pip install --no-deps torchcfm==1.0.7        # without it, that column is left out
    python benchmarks/training_speed.py [--batch 256 1024] [--steps 40] [--width 512]

The same MLP on Fashion-MNIST, the same optimiser, clipping and weight average for all, one process, rounds in turn. The
bare loop has data and pairs in memory and makes neither shuffles nor logs. torchcfm solves an exact coupling of every
batch before the step, as its training scripts do (POT's network simplex, one thread).
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from fashion import DATA
from torch import Tensor, nn

from pipeline.config import CoupleConfig, validate
from pipeline.couple import couple
from pipeline.store.format import Index
from training import loop, models
from training.config import MLPConfig, OptimisationConfig
from training.directory import lanes
from training.loader import PairLoader, Part
from training.objectives import Objective
from training.state import TrainState

ROUNDS, PAIRS = 5, 16_000
Draw = Callable[[int], tuple[Tensor, Tensor, Tensor]]


def started(config: OptimisationConfig, index: Index, width: int) -> TrainState:
    """A new model with its optimiser and weight average."""
    return TrainState.start(models.build(MLPConfig(kind="mlp", width=width), index.shape, 0, seed=0), config)


def ours(store: Path, index: Index, config: OptimisationConfig, width: int) -> float:
    """Seconds of the training loop on the store, its first half not counted: that reads and checks the first shard."""
    state, lines = started(config, index, width), list[loop.LogLine]()
    part = Part(config.batch, 0, 1, lanes(config.batch, 1))
    with PairLoader(store, index, part, seed=0) as loader:
        loop.run(state, state.model, loader, Objective(0), config, part, lines.append, lambda metrics: None)
    return lines[-1].seconds - lines[-2].seconds


def bare(draw: Draw, index: Index, config: OptimisationConfig, width: int) -> float:
    """Seconds of as many steps on what `draw` gives: times, points on the paths and velocities."""
    state = started(config, index, width)
    for step in range(config.steps):
        if step == config.steps // 2:
            began = time.perf_counter()
        t, x, velocity = draw(config.batch)
        loss = (state.model(t, x, None) - velocity).square().mean()
        state.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
        state.optimiser.step()
        state.ema.update_parameters(state.model)
    return time.perf_counter() - began


def from_memory(x1: Tensor) -> Draw:
    """Pairs made beforehand."""
    x0 = torch.randn_like(x1)

    def draw(batch: int) -> tuple[Tensor, Tensor, Tensor]:
        rows, t = torch.randint(len(x1), (batch,)), torch.rand(batch)
        start, end = x0[rows], x1[rows]
        return t, torch.lerp(start, end, t[:, None, None, None]), end - start

    return draw


def by_torchcfm(x1: Tensor) -> Draw:
    """Fresh noise, coupled with a batch of data in the loop."""
    from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher

    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)

    def draw(batch: int) -> tuple[Tensor, Tensor, Tensor]:
        end = x1[torch.randint(len(x1), (batch,))]
        return matcher.sample_location_and_conditional_flow(torch.randn_like(end), end)

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    print("| batch | flowpairs, samples/s | bare loop | ratio | torchcfm, exact coupling in the loop | ratio |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary) / "pairs"
        plain: dict[str, Any] = {
            "data": {"path": str(DATA / "fashion_mnist" / "train8000.npz"), "column": "images"},
            "coupling": {"method": "independent", "n": 8000},
            "output": {"dir": str(store), "pairs": PAIRS},
        }
        index = couple(validate(CoupleConfig, plain))
        ray.shutdown()
        x1 = torch.from_numpy(np.load(DATA / "fashion_mnist" / "train8000.npz")["images"]).float()[:, None] / 127.5 - 1
        others = {"bare": from_memory(x1)}
        with contextlib.suppress(ImportError):
            others["torchcfm"] = by_torchcfm(x1)
        for batch in options.batch:
            half = options.steps // 2
            config = OptimisationConfig(steps=2 * half, batch=batch, log_every=half, warmup=0)
            took: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
            for _ in range(ROUNDS):
                took["ours"].append(ours(store, index, config, options.width))
                for name, draw in others.items():
                    took[name].append(bare(draw, index, config, options.width))
            pace = {name: half * batch / float(np.median(seconds)) for name, seconds in took.items()}
            ratios = {
                name: float(np.median([b / a for a, b in zip(took["ours"], took[name], strict=True)]))
                for name in others
            }
            cells = [f"{pace['ours']:,.0f}", *(f"{pace[name]:,.0f} | {ratios[name]:.2f}" for name in others)]
            print(f"| {batch:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
