"""Samples a second of training on stored pairs, against a bare torch loop and against torchcfm's coupling in the loop.

    pip install --no-deps torchcfm==1.0.7        # without it, that column is left out
    python benchmarks/training_speed.py [--model mlp unet] [--batch 256 1024] [--steps 100] [--threads 2] [--rounds 5]

The same network on Fashion-MNIST, the same optimiser, clipping and weight average for all, one process, rounds in turn;
an MLP 512 wide, or the small UNet of benchmarks/unet.py. The bare loop has data and pairs in memory and makes neither
shuffles nor logs. torchcfm solves an exact coupling of every batch before the step, as its training scripts do (POT's
network simplex, one thread). The first half of the steps is not counted: in it shards are read and checked for the
first time, and batches are made ahead. The loader is a thread: as many torch threads as cores leave it no core.

The last column is the processor time of the training loop's own thread over the bare loop's, which other work on the
machine hardly changes; with one torch thread it is the ratio of steps/s where the loader's thread has a core.
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

from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.format import Index
from flowpairs.training import models
from flowpairs.training.config import MLPConfig, ModelConfig, OptimisationConfig, UNetConfig
from flowpairs.training.objectives.objective import Objective
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.reading.order import arcs_for
from flowpairs.training.run import loop
from flowpairs.training.run.state import TrainState

PAIRS = 16_000
MODELS: dict[str, ModelConfig] = {
    "mlp": MLPConfig(kind="mlp", width=512),
    "unet": UNetConfig(kind="unet", channels=(8, 16, 32), layers=1),
}
Draw = Callable[[int], tuple[Tensor, Tensor, Tensor]]


def started(config: OptimisationConfig, index: Index, model: ModelConfig) -> TrainState:
    """A new model with its optimiser and weight average."""
    return TrainState.start(models.build_model(model, index.shape, 0, seed=0), config)


def clocks() -> np.ndarray:
    """Seconds on the wall, and of this thread's processor time."""
    return np.array([time.perf_counter(), time.thread_time()])


def ours(store: Path, index: Index, config: OptimisationConfig, model: ModelConfig) -> np.ndarray:
    """What the second half of the training loop on the store takes, by both clocks."""
    state, lines = started(config, index, model), list[np.ndarray]()
    part = BatchPart(config.batch, 0, 1, arcs_for(config.batch, 1))
    with ShardLoader(store, index, part, seed=0) as loader:
        log, save = (lambda line: lines.append(clocks())), (lambda metrics: None)
        loop.train_loop(state, state.model, loader, Objective(0), config, part, log, save)
    return lines[-1] - lines[-2]


def bare(draw: Draw, index: Index, config: OptimisationConfig, model: ModelConfig) -> np.ndarray:
    """The same of as many steps on what `draw` gives: times, points on the paths and velocities."""
    state = started(config, index, model)
    for step in range(config.steps):
        if step == config.steps // 2:
            began = clocks()
        t, x, velocity = draw(config.batch)
        loss = (state.model(t, x, None) - velocity).square().mean()
        state.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
        state.optimiser.step()
        state.ema.update_parameters(state.model)
    return clocks() - began


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
    parser.add_argument("--model", nargs="+", default=["mlp"], choices=MODELS)
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    print("| model | batch | flowpairs, samples/s | bare loop | ratio | torchcfm | ratio | thread time, bare / ours |")
    print("|---|---|---|---|---|---|---|---|")
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
        for name, batch in [(name, batch) for name in options.model for batch in options.batch]:
            model, half = MODELS[name], options.steps // 2
            config = OptimisationConfig(steps=2 * half, batch=batch, log_every=half, warmup=0)
            mine, theirs = [], {other: [] for other in others}
            for _ in range(options.rounds):
                mine.append(ours(store, index, config, model))
                for other, draw in others.items():
                    theirs[other].append(bare(draw, index, config, model))
            pace = half * batch / np.median(mine, 0)[0]
            cells = [f"{pace:,.0f}"]
            for other in ("bare", "torchcfm"):
                if other in theirs:
                    ratio = np.median(np.array(theirs[other]) / np.array(mine), 0)
                    cells += [f"{half * batch / np.median(theirs[other], 0)[0]:,.0f}", f"{ratio[0]:.2f}"]
                else:
                    cells += ["", ""]
            cells.append(f"{np.median(np.array(theirs['bare']) / np.array(mine), 0)[1]:.2f}")
            print(f"| {name} | {batch:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
