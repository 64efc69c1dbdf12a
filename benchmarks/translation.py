"""Unpaired image translation: sandals to ankle boots of Fashion-MNIST, on pairs and on held-out images.

    python benchmarks/translation.py [--steps 2000] [--seeds 3] [--cpus 2] [--dir out/translation] [--picture FILE.png]

About 800 images a class for training, 200 held out of the test set. The same MLP and number of steps on pairs of an
independent coupling and of a Sinkhorn coupling (rel_eps 0.03, on 64 principal directions), by the code of `flowpairs
couple`, `train`, `evaluate` and `sample`. Of the held-out sandals:

    FD       Frechet distance (64 principal components) of what they become to the held-out boots, at Euler 4 and
             dopri5; "floor" is that of the training boots, "unmoved" of the sandals themselves
    moved    mean |T(x) - x|^2 a pixel: a translation keeps what it can of its input

Mean and spread over seeds of the training. A few minutes on two cores.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from fashion import DATA
from PIL import Image

from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.training.config import EvaluateConfig, SampleConfig, TrainConfig
from flowpairs.training.evaluate import evaluate
from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance
from flowpairs.training.report.drawing import pictures
from flowpairs.training.sample import sample
from flowpairs.training.train import train

SOURCE, TARGET = 5, 9  # sandals, ankle boots
PAIRS = 65_536
COUPLINGS: dict[str, dict[str, Any]] = {
    "independent": {"method": "independent", "n": 8192, "resample": "repeat"},
    "Sinkhorn": {"method": "sinkhorn", "n": 8192, "resample": "repeat", "rel_eps": 0.03},
}
SHOWN = 10


def classes(directory: Path) -> None:
    """Write a .npz for each class, of training and of held-out images."""
    for name, part in (("train8000", "train"), ("test2000", "test")):
        with np.load(DATA / "fashion_mnist" / f"{name}.npz") as arrays:
            for label in (SOURCE, TARGET):
                np.savez(directory / f"{part}-{label}.npz", image=arrays["images"][arrays["labels"] == label])


def tensor(path: Path) -> torch.Tensor:
    """Images as the coupling job reads them."""
    return torch.from_numpy(np.load(path)["image"]).float()[:, None] / 127.5 - 1


def run(store: Path, directory: Path, data: Path, steps: int, seed: int) -> tuple[dict[str, float], np.ndarray]:
    """Train, and translate the held-out images."""
    tree = {
        "pairs": str(store),
        "model": {"kind": "mlp", "width": 512, "depth": 3},
        "train": {"steps": steps, "batch": 256, "ema": 0.995, "seed": seed, "checkpoint_every": steps},
        "output": {"dir": str(directory)},
    }
    train(validate(TrainConfig, tree))
    held = {"source": str(data / f"test-{SOURCE}.npz"), "data": str(data / f"test-{TARGET}.npz")}
    x = tensor(Path(held["source"]))
    report = evaluate(directory, EvaluateConfig(samples=len(x), euler=(4,), seed=seed, **held))
    sample(directory, SampleConfig(samples=len(x)), directory / "translated.npz", held["source"])
    moved = np.load(directory / "translated.npz")["samples"]
    found = {f"FD {row['solver']}": row["fd"] for row in report["frechet"]}
    return {**found, "moved": float(np.square(moved - x.numpy()).mean()), "curvature": report["curvature"]}, moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path("out/translation"))
    parser.add_argument(
        "--picture", type=Path, help="write held-out sandals, and below what each coupling makes of them"
    )
    options = parser.parse_args()
    directory = options.dir.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    classes(directory)
    boots, held, sandals = (tensor(directory / f"{name}.npz") for name in ("train-9", "test-9", "test-5"))
    principal = Principal.fit(held, 64)
    reference = Gaussian.fit(principal(held))
    for name, x in (("floor", boots), ("unmoved", sandals)):
        print(f"{name}: FD {frechet_distance(reference, Gaussian.fit(principal(x))):.2f}", flush=True)
    ray.init(address="local", num_cpus=options.cpus, include_dashboard=False, log_to_driver=False)
    rows = [sandals[:SHOWN].numpy()]
    for name, coupling in COUPLINGS.items():
        tree = {
            "data": {"path": str(directory / f"train-{TARGET}.npz")},
            "source": {"kind": "data", "path": str(directory / f"train-{SOURCE}.npz")},
            "features": "none" if name == "independent" else {"pca": 64},
            "coupling": coupling,
            "output": {"dir": str(directory / name), "pairs": PAIRS, "payload": "ids"},
        }
        couple(validate(CoupleConfig, tree))
        found = [
            run(directory / name, directory / f"run-{name}-{seed}", directory, options.steps, seed)
            for seed in range(options.seeds)
        ]
        rows.append(found[0][1][:SHOWN])
        every = {key: [row[key] for row, _ in found] for key in found[0][0]}
        figures = [f"{key} {np.mean(values):.3g} +- {np.std(values):.2g}" for key, values in every.items()]
        print(f"{name}: {'; '.join(figures)}", flush=True)
    if options.picture:
        tiles = Image.fromarray(pictures.grid(np.concatenate(rows), SHOWN, reach=1.0))
        tiles.resize((tiles.width * 2, tiles.height * 2), Image.Resampling.NEAREST).save(options.picture)


if __name__ == "__main__":
    main()
