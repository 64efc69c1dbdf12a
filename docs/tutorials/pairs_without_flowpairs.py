"""The pairs without this project: make a store once, and train on it with webdataset, numpy and torch alone.

    python docs/tutorials/pairs_without_flowpairs.py [--output DIR] [--pairs out/tutorials/digits]

You learn how to read a pair store where flowpairs is not installed: shards are WebDataset tars of .npy arrays, and
index.json says what is in them. Nothing is imported of this project; the one line that needs it runs in a process of
its own. Takes about half a minute on two cores; a pair store that is there already is used again.
"""

import argparse
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from matplotlib import pyplot as plt
from torch import nn

DIGITS = Path(__file__).parents[2] / "configs" / "digits" / "couple.yaml"
STEPS, EULER = 800, 8


def main(output: Path, pairs: Path) -> None:
    # 1. Make the store, as you would by `flowpairs couple`; run again, it finds the store complete and returns.
    #    payload=full, the default, stores both sides of every pair, so that a reader needs no generator of noise.
    command = [sys.executable, "-m", "jobs.couple", str(DIGITS.resolve()), f"output.dir={pairs.resolve()}"]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, stdout=subprocess.DEVNULL)

    # 2. What is in it. The index is written last: where there is one, all shards are there, with their sizes and
    #    hashes.
    index = json.loads((pairs / "index.json").read_text())
    print(f"{index['pairs']:,} pairs of shape {index['shape']}, {index['num_classes']} classes, {index['method']}")

    # 3. Read the shards. A record is some hundred pairs, an array a field. These fit into memory; where yours do not,
    #    let webdataset stream them, shuffle the order of shards and records, and take the pairs of a record as they
    #    come.
    urls = [str(pairs / "shards" / shard["name"]) for shard in index["shards"]]
    records = [
        [torch.from_numpy(np.load(io.BytesIO(record[f"{side}.npy"]))) for side in ("x0", "x1")]
        for record in wds.WebDataset(urls, shardshuffle=False)
    ]
    noise, digits = (torch.cat(side) for side in zip(*records, strict=True))

    # 4. Regress on the pairs' velocity, at a random time of the straight line between the two ends.
    torch.manual_seed(0)
    sizes = [65, 384, 384, 384]
    hidden = [part for ins, outs in itertools.pairwise(sizes) for part in (nn.Linear(ins, outs), nn.SiLU())]
    model = nn.Sequential(*hidden, nn.Linear(384, 64))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(1, STEPS + 1):
        rows, t = torch.randint(len(noise), (256,)), torch.rand(256, 1)
        x0, x1 = noise[rows].flatten(1), digits[rows].flatten(1)
        loss = (model(torch.cat([torch.lerp(x0, x1, t), t], 1)) - (x1 - x0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step:5}   loss {loss.item():.3f}")

    # 5. Sample in eight Euler steps from noise.
    states = [torch.randn(4, 64)]
    with torch.no_grad():
        for k in range(EULER):
            t = torch.full((4, 1), k / EULER)
            states.append(states[-1] + model(torch.cat([states[-1], t], 1)) / EULER)
    moved = [(after - before).norm(dim=1).mean().item() for before, after in itertools.pairwise(states)]
    print("length of each step: " + " ".join(f"{length:.2f}" for length in moved))

    # 6. A sample a row, from noise on the left to a digit on the right.
    figure, axes = plt.subplots(4, EULER + 1, figsize=(5.6, 2.8), layout="constrained")
    for column, (line, state) in enumerate(zip(axes.T, states, strict=True)):
        line[0].set_title(f"{column}/{EULER}", fontsize=10)
        for ax, image in zip(line, state, strict=True):
            ax.imshow(image.view(8, 8), cmap="gray", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
    figure.suptitle("time t, in eight Euler steps", fontsize=10)
    figure.savefig(output / "pairs_without_flowpairs.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/tutorials/pairs_without_flowpairs"))
    parser.add_argument("--pairs", type=Path, default=Path("out/tutorials/digits"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    main(options.output, options.pairs)
