"""The share of its time that training with the UNet waits for data.

    python benchmarks/data_wait.py [--batch 32] [--steps 8]

The training loop itself runs on stores of images of 28x28 and 32x32x3 (those of benchmarks/loader.py), with the UNet of
training/models as configured by default, on a CUDA device where there is one. Half of the steps come first and are not
counted: they contain the check of the first shards' hashes and the first window's reading.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from loader import PER_SHARD, SHAPES, make_store

from flowpairs.training import models
from flowpairs.training.config import OptimisationConfig, UNetConfig
from flowpairs.training.objectives.objective import Objective
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.reading.order import arcs_for
from flowpairs.training.run import loop
from flowpairs.training.run.state import TrainState


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = options.steps // 2
    config = OptimisationConfig(steps=2 * half, batch=options.batch, log_every=half)
    print("| pairs | pairs/s | waited for data |")
    print("|---|---|---|")
    for name in ("images 28x28", "images 32x32x3"):
        with tempfile.TemporaryDirectory() as temporary:
            index = make_store(Path(temporary), SHAPES[name], 4 * PER_SHARD)
            model = models.build_model(UNetConfig(kind="unet"), index.shape, 0, seed=0).to(device)
            state, lines = TrainState.start(model, config), list[loop.LogLine]()
            part = BatchPart(config.batch, 0, 1, arcs_for(config.batch, 1))
            objective, pin = Objective(config.seed), device.type == "cuda"
            draw = partial(objective.draw, shape=index.shape)
            with ShardLoader(Path(temporary), index, part, seed=0, pin=pin, draw=draw) as loader:
                loop.train_loop(state, model, loader, objective, config, lines.append, lambda metrics: None)
        print(f"| {name} | {lines[-1].samples_per_s:,.0f} | {100 * lines[-1].data_wait:.2f} % |")


if __name__ == "__main__":
    main()
