"""Reflow beside straight optimal-transport pairs and independent ones: the same network, trained equally long on each.

    python benchmarks/reflow.py [--data digits fashion] [--steps 2000] [--seeds 3]

    independent       noise and data at random
    sinkhorn          blocks of n = 4,096, rel_eps 0.03, data repeated where there are fewer
    reflow            noise and where the flow trained on independent pairs leads it (method reflow); 2: once more,
                      from the flow trained on those
    reflow, coupled   the same with coupling.recouple: blocks of n = 4,096, rel_eps 0.03
    reflow of sinkhorn   of the flow trained on the Sinkhorn pairs

All stores have 32,768 pairs and all runs start from new weights, so a round of reflow has cost its own steps and those
of the rounds before; `independent, 2x` and `3x` are trained for the steps of two and three rounds. The network is
training's MLP, 256 wide, three blocks. The table has the mean squared distance of the pairs per coordinate, and of
4,000 samples the curvature and the Frechet distances to the data at 1, 2 and 4 Euler steps and by dopri5, with their
standard deviation over the seeds; a seed is one of the noise and of the weights throughout.

Data, in 64 principal directions, are scikit-learn's digits, and 8,000 images of Fashion-MNIST (FLOWPAIRS_DATA, as in
benchmarks/fashion.py). Runs and stores stay in DIR, and a script that was stopped goes on where it was; `--seconds`
begins nothing new after so many. One thread.
"""

import argparse
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from worth import data

from flowpairs import PairDataset, PairStore
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.training import objectives
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.metrics.frechet import Gaussian, frechet_distance
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.reading.order import arcs_for
from flowpairs.training.run.directory import check_run, prepare_run
from flowpairs.training.run.logbook import Logbook
from flowpairs.training.run.loop import train_loop
from flowpairs.training.run.state import TrainState
from flowpairs.training.run.trained import read_finished
from flowpairs.training.sampling.curvature import integrate_unit_interval
from flowpairs.training.sampling.sampler import Sampler

PAIRS, SAMPLES, EULER = 32_768, 4_000, (1, 2, 4)
SINKHORN = {"n": 4096, "rel_eps": 0.03}
FLOW = {"method": "reflow", "n": 4096, "batch": 4096, "rtol": 1e-4, "atol": 1e-4}
# Name of the pairs: how they are coupled, the pairs that the flow behind them was trained on, and the steps in rounds.
ROWS: dict[str, tuple[dict[str, Any], str | None, int]] = {
    "independent": ({"method": "independent", "n": 4096, "resample": "repeat"}, None, 1),
    "independent, 2x": ({"method": "independent", "n": 4096, "resample": "repeat"}, None, 2),
    "independent, 3x": ({"method": "independent", "n": 4096, "resample": "repeat"}, None, 3),
    "sinkhorn": (SINKHORN | {"resample": "repeat"}, None, 1),
    "reflow": (FLOW, "independent", 1),
    "reflow 2": (FLOW, "reflow", 1),
    "reflow, coupled": (FLOW | SINKHORN | {"recouple": True}, "independent", 1),
    "reflow 2, coupled": (FLOW | SINKHORN | {"recouple": True}, "reflow, coupled", 1),
    "reflow of sinkhorn": (FLOW, "sinkhorn", 1),
}


def folder(directory: Path, kind: str, name: str, seed: int) -> Path:
    """Where a store or a run lies; longer runs on independent pairs are on the same pairs."""
    plain = name.partition(", 2x")[0].partition(", 3x")[0] if kind == "pairs" else name
    return directory / f"{kind}-{plain.replace(', ', '-').replace(' ', '-')}-{seed}"


def train(config: TrainConfig) -> None:
    """Train as `flowpairs train` does on one worker, in this process, which takes no time to start."""
    config, index = check_run(config)
    run, how = prepare_run(config), config.train
    if run.summary() is not None:
        return
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    run.metrics.unlink(missing_ok=True)
    state = TrainState.start(objectives.build_network(config, index.shape, index.num_classes), how)
    part, log = BatchPart(how.batch, 0, 1, arcs_for(how.batch, 1)), Logbook(run.metrics, 0)
    objective = objectives.build_objective(config, index.num_classes)
    given = config.pairs.dir, index, part, how.seed, config.model.conditional
    with ShardLoader(*given, draw=partial(objective.draw, shape=index.shape)) as loader:
        train_loop(state, state.model, loader, objective, how, log.write, lambda metrics: None)
    log.close()
    checkpoint = f"checkpoints/step-{how.steps:09d}"
    state.save(run.path / checkpoint)
    summary = {"pairs_dir": config.pairs.dir, "method": index.method, "checkpoint": checkpoint, "steps": how.steps}
    run.finish(summary | {"shape": list(index.shape), "num_classes": index.num_classes, "two_sided": index.two_sided})


def evaluated(run: Path, file: Path, seed: int) -> dict[str, float]:
    """Measure the flow of a run as `flowpairs evaluate` does, in all directions of the data."""
    config = EvaluateConfig(samples=SAMPLES, seed=seed, batch=SAMPLES)
    sampler = Sampler(read_finished(run), config, None, torch.device("cpu"))
    data = Gaussian.fit(torch.from_numpy(np.load(file)["x"]))
    row = {"curvature": integrate_unit_interval(sampler.curvature())}
    for solver, steps in (*(("euler", k) for k in EULER), ("dopri5", None)):
        samples, _ = sampler.samples(solver, steps)
        row[f"FD {steps or solver}"] = frechet_distance(data, Gaussian.fit(samples))
    return row


def measured(directory: Path, file: Path, name: str, steps: int, seed: int) -> dict[str, float]:
    """Make the pairs of a row, train on them and evaluate the run."""
    coupling, behind, rounds = ROWS[name]
    if behind is not None:
        coupling = coupling | {"run": str(folder(directory, "run", behind, seed))}
    store, run = (folder(directory, kind, name, seed) for kind in ("pairs", "run"))
    tree = {
        "data": {"path": str(file), "column": "x"},
        "source": {"kind": "gaussian", "seed": seed},
        "coupling": coupling,
        "output": {"dir": str(store), "pairs": PAIRS, "payload": "full"},
        "cluster": {"actors": 0},
    }
    PairStore.of(validate(CoupleConfig, tree)).couple()
    tree = {
        "pairs": str(store),
        "model": {"kind": "mlp", "width": 256, "depth": 3},
        "train": {"steps": rounds * steps, "batch": 256, "lr": 2e-3, "ema": 0.998, "seed": seed, "schedule": "linear"},
        "output": {"dir": str(run), "trackers": []},
    }
    train(validate(TrainConfig, tree))
    pairs = PairDataset(store)[:]
    distance = float((pairs["x1"] - pairs["x0"]).square().mean())
    return {"distance": distance} | evaluated(run, file, 100 + seed)


def show(name: str, rows: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the table of a data set."""
    columns = ["distance", "curvature", *(f"FD {k}" for k in EULER), "FD dopri5"]
    print(f"\n{name}\n| pairs | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for pairs, seeds in rows.items():
        found = [[row[column] for row in seeds.values()] for column in columns]
        cells = [f"{np.mean(values):.3g}" + (f" ± {np.std(values):.2g}" if len(values) > 1 else "") for values in found]
        print(f"| {pairs} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=("digits", "fashion"), default=["digits", "fashion"])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--dir", type=Path, default=Path("out/reflow"))
    options = parser.parse_args()
    directory, began = options.dir.absolute(), time.monotonic()
    torch.set_num_threads(1)
    for name in options.data:
        file, kept = data(name, directory), directory / f"rows-{name}.json"
        rows = json.loads(kept.read_text()) if kept.is_file() else {}
        for seed in map(str, range(options.seeds)):
            for pairs in options.rows:
                if seed in rows.setdefault(pairs, {}) or time.monotonic() - began > options.seconds:
                    continue
                rows[pairs][seed] = measured(directory / name, file, pairs, options.steps, int(seed))
                kept.write_text(json.dumps(rows, indent=1))
        show(name, {pairs: seeds for pairs, seeds in rows.items() if seeds})


if __name__ == "__main__":
    main()
