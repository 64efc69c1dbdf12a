"""Time points left out in turn, by `flowpairs evaluate RUN --leave-out all`: one flow through all that are left.

    python benchmarks/leave_out.py [--data embryoid krumsiek] [--pairs exact independent] [--seeds 5]
                                   [--width 128] [--steps 1000 2000 3000] [--dir out/leave-out]

    embryoid    eb_embryoid/eb_2750.npz in the directory of benchmarks/fashion.py: 550 cells at each of five times, five
                principal components, standardised
    krumsiek    datasets/krumsiek11.txt, which scanpy's wheel ships (`pip install --no-deps scanpy==1.11.5`): 640 states
                of 11 genes, a simulated differentiation of myeloid progenitors to four fates, 4 at each of 160 times;
                five spans of 32 times each, five principal components, standardised

Coupled and trained as configs/single-cell says, in one process, and without each inner time point anew. After each
number of --steps the runs are measured and go on, so `best` is the smallest mean W1 among these, found by what it
reports: a figure to lay beside papers that choose so, and not one that a user could have had. W1, W2 and MMD are those
of evaluation.json; the spread is over the seeds of the training. Runs stay in DIR, and a script that was stopped goes
on where it was. One thread.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion import DATA

from flowpairs.jobs._leave_out import leave_out
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.couple import couple
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.train import train

CONFIGS = Path(__file__).parent.parent / "configs" / "single-cell"
COMPONENTS = 5
EVALUATION = EvaluateConfig(samples=256, euler=(8,), workers=0)
FIGURES = {"W1": "w1", "W2": "w2", "MMD": "mmd"}


def embryoid() -> tuple[np.ndarray, np.ndarray]:
    """Principal components as they come, and the times."""
    with np.load(DATA / "eb_embryoid" / "eb_2750.npz") as file:
        return file["X"][:, :COMPONENTS].astype(np.float64), file["ts"].astype(np.int64)


def krumsiek() -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the genes, and the span of each state."""
    found = find_spec("scanpy")
    if found is None or found.origin is None:
        raise SystemExit("krumsiek: scanpy is not installed; run `pip install --no-deps scanpy==1.11.5`")
    rows = np.loadtxt(Path(found.origin).parent / "datasets" / "krumsiek11.txt", comments="#")
    genes = rows[:, 1:] - rows[:, 1:].mean(0)
    _, _, directions = np.linalg.svd(genes, full_matrices=False)
    return genes @ directions[:COMPONENTS].T, np.arange(len(rows)) % 160 // 32


SETS = {"embryoid": embryoid, "krumsiek": krumsiek}


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Say how many CPU seconds something took."""
    began = time.process_time()
    yield
    print(f"{name}: {time.process_time() - began:.0f} s of CPU time", flush=True)


def measure(name: str, method: str, options: argparse.Namespace) -> dict[int, list[dict[str, Any]]]:
    """Couple, train and leave out; the rows of leave-out.json by the number of steps."""
    where = options.dir / name
    where.mkdir(parents=True, exist_ok=True)
    x, times = SETS[name]()
    np.savez(where / "cells.npz", cells=((x - x.mean(0)) / x.std(0)).astype(np.float32), day=times)
    pairs, run = where / method, where / f"{method}-{options.width}"
    given = [f"data.path={where / 'cells.npz'}", "data.leave_out=[]", f"output.dir={pairs}", "cluster.actors=0"]
    couple(load(CoupleConfig, CONFIGS / "couple.yaml", [*given, f"coupling.method={method}"]))
    found = {}
    for steps in options.steps:
        result = where / f"{run.name}-{steps}-{options.seeds}.json"
        if not result.is_file():
            own = [f"pairs.dir={pairs}", f"output.dir={run}", "cluster.workers=0", "train.checkpoint_every=1000000"]
            own += [f"train.steps={steps}", f"model.width={options.width}"]
            train(load(TrainConfig, CONFIGS / "train.yaml", own))
            result.write_text(json.dumps(leave_out(run, "all", options.seeds, EVALUATION, trust=False)["rows"]))
        found[steps] = json.loads(result.read_text())
    return found


def cells(rows: list[dict[str, Any]], name: str, times: list[float]) -> str:
    """Mean over some times of each seed, then mean and standard deviation over seeds."""
    seeds = sorted({row["seed"] for row in rows})
    of_times = [row for row in rows if row["time"] in times]
    means = [statistics.fmean(row[name] for row in of_times if row["seed"] == seed) for seed in seeds]
    return f"{statistics.fmean(means):.3f}" + (f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--pairs", nargs="+", choices=("exact", "independent"), default=["exact", "independent"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", nargs="+", type=int, default=[1000, 2000, 3000])
    parser.add_argument("--dir", type=Path, default=Path("out/leave-out"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for name in options.data:
        for method in options.pairs:
            with timed(f"{name}, {method}"):
                found = measure(name, method, options)
            last = found[options.steps[-1]]
            times = sorted({row["time"] for row in last})
            if method == options.pairs[0]:
                table.append((name, "unmoved", "", *[cells(last, "w1_still", [time]) for time in times]))
                table[-1] += (cells(last, "w1_still", times), "", "", "")
            best = min(found.values(), key=lambda rows: statistics.fmean(row["w1"] for row in rows))
            of_each = [cells(last, "w1", [time]) for time in times]
            figures = [cells(last, figure, times) for figure in FIGURES.values()]
            table.append((name, method, f"{options.width}", *of_each, *figures, cells(best, "w1", times)))
    inner = " | ".join(f"W1, t = {time:g}" for time in times)
    print(f"| data | pairs | width | {inner} | mean W1 | W2 | MMD | best W1 |\n|{'---|' * len(table[0])}")
    for row in table:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
