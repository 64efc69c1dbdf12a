"""Steps a second of training on stored pairs, against a bare torch loop and against torchcfm's coupling in the loop.

    pip install --no-deps torchcfm==1.0.7        # without it, that column is left out
    python benchmarks/training_speed.py [--model mlp unet dit] [--pairs full ids semidiscrete] [--workers 1 2]
        [--batch 256] [--steps 60] [--rounds 3]

The same network on Fashion-MNIST, the same optimiser, clipping and weight average for all, rounds in turn: an MLP 512
wide, the small UNet of benchmarks/unet.py, a transformer 64 wide. Two workers are two processes that add up gradients
over gloo, in the same way for all; each has one thread. The bare loop has data and pairs in memory and makes neither
shuffles nor logs; its average of the weights is torch's. torchcfm solves an exact coupling of every batch before the
step, as its training scripts do (POT's network simplex). The first half of the steps is not counted: in it shards are
read and checked for the first time, and batches are made ahead.

The last column is the processor time of the training loop's own thread over the bare loop's, which other work on the
machine hardly changes: it is the ratio of steps/s where the loader's thread, too, has a core.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from fashion import DATA
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.format import Index, read_index
from flowpairs.training import models
from flowpairs.training.config import DiTConfig, MLPConfig, ModelConfig, OptimisationConfig, UNetConfig
from flowpairs.training.objectives.objective import Objective
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import Loader, ShardLoader
from flowpairs.training.pairs.online import OnlineLoader
from flowpairs.training.pairs.reading.order import arcs_for
from flowpairs.training.run import loop
from flowpairs.training.run.state import TrainState

PAIRS = 16_000
FILE = DATA / "fashion_mnist" / "train8000.npz"
MODELS: dict[str, ModelConfig] = {
    "mlp": MLPConfig(kind="mlp", width=512),
    "unet": UNetConfig(kind="unet", channels=(8, 16, 32), layers=1),
    "dit": DiTConfig(kind="dit", patch=4, width=64, depth=3, heads=2),
}
COUPLINGS: dict[str, dict[str, Any]] = {
    "full": {"coupling": {"method": "independent", "n": 8000}, "output": {"payload": "full"}},
    "ids": {"coupling": {"method": "independent", "n": 8000}, "output": {"payload": "ids"}},
    "semidiscrete": {
        "coupling": {"method": "semidiscrete", "n": 8000, "rel_eps": 0, "chi2": 0.2},
        "features": {"pca": 64},
        "output": {"payload": "ids"},
    },
}
OPTIONS: Any = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
Draw = Callable[[int], tuple[Tensor, Tensor, Tensor]]


def clocks() -> np.ndarray:
    """Seconds on the wall, and of this thread's processor time."""
    return np.array([time.perf_counter(), time.thread_time()])


def shared(model: nn.Module) -> nn.Module:
    """The model such that workers add up its gradients, if there are several."""
    return DistributedDataParallel(model, **OPTIONS) if torch.distributed.is_initialized() else model


def ours(pairs: str, store: Path, index: Index, part: BatchPart, config: OptimisationConfig, model: ModelConfig) -> Any:
    """What the second half of the training loop on the store takes, by both clocks."""
    state = TrainState.start(models.build_model(model, index.shape, 0, seed=0), config)
    objective, lines = Objective(0), list[np.ndarray]()
    draw = partial(objective.draw, shape=index.shape)
    given: Loader = (
        OnlineLoader(store, index, part, draw=draw)
        if pairs == "semidiscrete"
        else ShardLoader(store, index, part, seed=0, draw=draw)
    )
    with given as loader:
        log, save = (lambda line: lines.append(clocks())), (lambda metrics: None)
        loop.train_loop(state, shared(state.model), loader, objective, config, log, save)
    return lines[-1] - lines[-2]


def bare(draw: Draw, index: Index, rows: int, config: OptimisationConfig, kind: ModelConfig) -> np.ndarray:
    """The same of as many steps on what `draw` gives: times, points on the paths and velocities."""
    model = models.build_model(kind, index.shape, 0, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    average, wrapped = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)), shared(model)
    for step in range(config.steps):
        if step == config.steps // 2:
            began = clocks()
        t, x, velocity = draw(rows)
        loss = (wrapped(t, x, None) - velocity).square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        average.update_parameters(model)
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


def work(rank: int, world: int, options: argparse.Namespace, root: Path) -> None:
    """Measure as one of `world` workers; the first prints."""
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{root / 'meet'}", rank=rank, world_size=world)
    x1 = torch.from_numpy(np.load(FILE)["images"]).float()[:, None] / 127.5 - 1
    others = {"bare": from_memory(x1)}
    with contextlib.suppress(ImportError):
        others["torchcfm"] = by_torchcfm(x1)
    half = options.steps // 2
    config = OptimisationConfig(steps=2 * half, batch=options.batch, log_every=half, warmup=0)
    part = BatchPart(config.batch, rank, world, arcs_for(config.batch, world))
    for name in options.model:
        for pairs in options.pairs:
            store, model, mine = root / pairs, MODELS[name], list[np.ndarray]()
            index, theirs = read_index(store), {other: list[np.ndarray]() for other in others}
            for _ in range(options.rounds):
                mine.append(ours(pairs, store, index, part, config, model))
                for other, draw in others.items():
                    theirs[other].append(bare(draw, index, len(part.rows), config, model))
            cells = [f"{half / np.median(mine, 0)[0]:.3g}"]
            for other in ("bare", "torchcfm"):
                if other in theirs:
                    ratio = np.median(np.array(theirs[other]) / np.array(mine), 0)
                    cells += [f"{half / np.median(theirs[other], 0)[0]:.3g}", f"{ratio[0]:.2f}"]
                else:
                    cells += ["", ""]
            cells.append(f"{np.median(np.array(theirs['bare']) / np.array(mine), 0)[1]:.2f}")
            if rank == 0:
                print(f"| {name} | {pairs} | {world} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["mlp"], choices=MODELS)
    parser.add_argument("--pairs", nargs="+", default=list(COUPLINGS), choices=COUPLINGS)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for pairs in options.pairs:
            tree = COUPLINGS[pairs]
            output = tree["output"] | {"dir": str(Path(temporary) / pairs), "pairs": PAIRS}
            plain = tree | {"data": {"path": str(FILE), "column": "images"}, "output": output}
            couple(validate(CoupleConfig, plain | {"cluster": {"actors": 0}}))
        print("| model | pairs | workers | flowpairs, steps/s | bare loop | ratio | torchcfm | ratio | thread time |")
        print("|---|---|---|---|---|---|---|---|---|")
        for world in options.workers:
            (Path(temporary) / "meet").unlink(missing_ok=True)
            torch.multiprocessing.spawn(work, (world, options, Path(temporary)), nprocs=world)


if __name__ == "__main__":
    main()
