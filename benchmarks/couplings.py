"""Couplings compared on Fashion-MNIST at equal training: independent, exact in minibatches, Sinkhorn, semi-discrete.

    python benchmarks/couplings.py [--steps 1500] [--seeds 3] [--cpus 2] [--dir out/couplings] [--json rows.json]

The same MLP, learning rate, batches and number of steps for all; the first three regress on stores of pairs, the last
matches fresh noise inside the training job. Curvature and Frechet distance (64 principal components of the pixels,
8,000 data) at Euler 4, 8 and 16 and dopri5, mean and spread over the seeds. Precompute seconds are those of solving,
drawing and matching, on all cores together, without Ray's start; bytes a pair are those of the payload `ids`, beside
one copy of the data set.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import ray
from fashion import DATA

from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store import block_reports
from flowpairs.pipeline.store.potential_files import load_potentials
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.evaluate import evaluate
from flowpairs.training.train import train

PAIRS = 128_000
COUPLINGS: dict[str, dict[str, Any]] = {
    "independent": {"method": "independent", "n": 8000},
    "exact, n = 256": {"method": "exact", "n": 256},
    "Sinkhorn, n = 8,000": {"method": "sinkhorn", "n": 8000, "rel_eps": 0.03},
    "semi-discrete, eps = 0": {"method": "semidiscrete", "n": 8000, "rel_eps": 0.0},
}


def coupled(name: str, directory: Path, cpus: int) -> dict[str, Any]:
    """Make a store; what it took."""
    coupling, semidiscrete = COUPLINGS[name], COUPLINGS[name]["method"] == "semidiscrete"
    config = validate(
        CoupleConfig,
        {
            "data": {"path": str(Path(DATA).resolve() / "fashion_mnist" / "train8000.npz"), "column": "images"},
            "features": {"pca": 64} if coupling["method"] != "independent" else "none",
            "coupling": coupling,
            "output": {"dir": str(directory), "pairs": 0 if semidiscrete else PAIRS, "payload": "ids"},
        },
    )
    rows: list[dict[str, Any]] = []
    index = couple(config, rows.append)
    seconds = sum(row["seconds"] for row in block_reports.read_blocks(directory)) / cpus  # as many actors at a time
    if semidiscrete:
        seconds = load_potentials(directory).reports[0]["seconds"]
    return {"seconds": seconds, "bytes": sum(s.bytes for s in index.shards) / max(1, index.pairs)}


def run(pairs: str, directory: Path, steps: int, seed: int) -> dict[str, float]:
    """Train and evaluate."""
    config = validate(
        TrainConfig,
        {
            "pairs": pairs,
            "model": {"kind": "mlp", "width": 512, "depth": 3},
            "train": {"steps": steps, "batch": 256, "ema": 0.995, "seed": seed, "checkpoint_every": steps},
            "output": {"dir": str(directory)},
        },
    )
    summary = train(config)
    report = evaluate(directory, EvaluateConfig(samples=4000, seed=seed))
    found = {
        f"{row['solver']} {row['nfe']}" if row["solver"] == "euler" else row["solver"]: row["fd"]
        for row in report["frechet"]
    }
    nfe = next(row["nfe"] for row in report["frechet"] if row["solver"] == "dopri5")
    return {"curvature": report["curvature"], **found, "NFE": nfe, "steps/s": steps / summary["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path("out/couplings"))
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    directory = options.dir.absolute()
    ray.init(address="local", num_cpus=options.cpus, include_dashboard=False, log_to_driver=False)
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(COUPLINGS):
        store = directory / f"pairs-{number}"
        made = coupled(name, store, options.cpus)
        pairs = f"semidiscrete:{store}" if COUPLINGS[name]["method"] == "semidiscrete" else str(store)
        for seed in range(options.seeds):
            rows.append(
                {"coupling": name, **made, **run(pairs, directory / f"run-{number}-{seed}", options.steps, seed)}
            )
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
        keys = [key for key in rows[-1] if key not in ("coupling", "seconds", "bytes")]
        mine = [row for row in rows if row["coupling"] == name]
        figures = [
            f"{key} {np.mean([r[key] for r in mine]):.3g} +- {np.std([r[key] for r in mine]):.2g}" for key in keys
        ]
        print(f"{name}: {made['seconds']:.1f} s, {made['bytes']:.1f} bytes a pair; {'; '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
