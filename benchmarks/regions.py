"""Blocks cut into regions: seconds, memory and cost, the loss against the whole block, and its bound.

    python benchmarks/regions.py [--n 8192 65536] [--regions 1 4 16 64] [--rel-eps 0.1 0.03] [--made]

Data: CIFAR-10's 50,000 training images and their mirror images in 64 principal directions (FLOWPAIRS_DATA, as in
benchmarks/cheap_couplings.py), n of them, or with --made n points of 100 clusters in 16 dimensions; and n rows of
noise. Each row of the table is a process of its own, with two threads. Seconds are the processor's, of both threads
together, for the solve and then for a balanced draw; memory is the peak above that of a small solve. Costs are mean
squared distances of a pair, in the feature space, as shares of that of independent ones; the bound has its standard
error; "of the gain" is what the loss is of what the whole block gains over independent pairs.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowpairs.pipeline.ot import Problem, solve_in_regions, solve_sinkhorn

CLUSTERS, DIM, SPREAD = 100, 16, 0.5


def made(n: int) -> Tensor:
    """Points of clusters whose centres are Gaussian [n, 16]."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(CLUSTERS, DIM, generator=random)
    return centres[torch.randint(CLUSTERS, (n,), generator=random)] + SPREAD * torch.randn(n, DIM, generator=random)


def images(n: int) -> Tensor:
    """Images and mirror images in principal directions [n, 64]."""
    from cheap_couplings import data

    every = data()
    return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:n]]


def peak_kib() -> int:
    """The peak memory of this process, on Linux [KiB]; unlike getrusage's, it does not begin with the parent's."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def couple(path: str, rel_eps: float, regions: int) -> dict[str, Any]:
    """Couple the points in a file in this process; report on it."""
    torch.set_num_threads(2)
    x1 = torch.load(path)
    x0 = torch.randn(len(x1), x1.shape[1], generator=torch.Generator().manual_seed(1))
    small = Problem(x0[:512], x1[:512], 1.0).at(rel_eps)
    solve_in_regions(small, 2)  # what the libraries do once
    before = peak_kib()
    problem, began = Problem(x0, x1, 1.0).at(rel_eps), time.process_time()
    found = solve_sinkhorn(problem) if regions == 1 else solve_in_regions(problem, regions)
    solved = time.process_time() - began
    found.draw_balanced(torch.rand(len(x0), dtype=torch.float64), torch.arange(len(x1)))
    report = found.report
    return {
        "seconds": solved,
        "drawing": time.process_time() - began - solved,
        "memory": (peak_kib() - before) / 2**20,
        "cost": report.cost_coupled / report.cost_independent,
        "partners": report.partners,
        "bound": getattr(report, "loss_bound", 0.0) / report.cost_independent,
        "error": getattr(report, "loss_error", 0.0) / report.cost_independent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--regions", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.1, 0.03])
    parser.add_argument("--made", action="store_true")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        path, rel_eps, regions = options.worker
        print(json.dumps(couple(path, float(rel_eps), int(regions))))
        return
    import tempfile

    print("| n | rel_eps | regions | solve, s | draw, s | GiB | partners | cost | loss | bound | of the gain |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for n in options.n:
        with tempfile.NamedTemporaryFile(suffix=".pt") as file:
            torch.save(made(n) if options.made else images(n), file.name)
            for rel_eps in options.rel_eps:
                whole = None
                for regions in options.regions:
                    command = [sys.executable, __file__, "--worker", file.name, str(rel_eps), str(regions)]
                    row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                    whole = row["cost"] if regions == 1 else whole
                    loss = "" if whole is None else f"{row['cost'] - whole:.4f}"
                    gain = "" if whole is None else f"{(row['cost'] - whole) / (1 - whole):.1%}"
                    print(
                        f"| {n:,} | {rel_eps:g} | {regions} | {row['seconds']:.1f} | {row['drawing']:.1f} | "
                        f"{row['memory']:.2f} | {row['partners']:.1f} | {row['cost']:.4f} | {loss} | "
                        f"{row['bound']:.4f} +- {row['error']:.4f} | {gain} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
