"""Whole solves by KeOps beside torch tiles, for few features: a cost as a formula, as a function, and inner products.

    python benchmarks/formula_costs.py [--n 4096] [--features 2 4 8 16] [--rel-eps .05] [--compile]

Every solve is of the same points at the same eps to an L1 error of 1e-3, and is timed from the problem to the coupling,
the moments of the cost included. Formulas are compiled before (`--compile` does nothing else), six seconds each, once a
machine. Each figure is the least of `--repeats` runs.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from flowpairs.pipeline.ot import Problem, solve_sinkhorn
from flowpairs.pipeline.ot.backends.choose import BackendName
from flowpairs.pipeline.ot.costs.cost import Cost
from flowpairs.pipeline.ot.costs.formula import Formula

MANHATTAN = Formula("Sum(Abs(X - Y))")
CURVED = Formula("Sqrt(SqNorm2(X - Y) + 0.01)")


def broadcast(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The Manhattan distance as most would write it."""
    return (x[:, None] - y).abs().sum(2)


def cdist(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same by torch's own kernel for it."""
    return torch.cdist(x, y, p=1)


WAYS: dict[str, tuple[Cost, BackendName]] = {
    "dot, torch": ("dot", "torch"),
    "dot, keops": ("dot", "keops"),
    "L1 formula, keops": (MANHATTAN, "keops"),
    "L1 formula, torch": (MANHATTAN, "torch"),
    "L1 broadcast, torch": (broadcast, "torch"),
    "L1 cdist, torch": (cdist, "torch"),
    "curved formula, keops": (CURVED, "keops"),
    "curved formula, torch": (CURVED, "torch"),
}


def points(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and eight clouds of uneven widths."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)
    centres = 2 * torch.randn(8, d, generator=generator)
    return x0, centres[torch.arange(n) % 8] + x1 * (0.2 + 0.1 * (torch.arange(n) % 8))[:, None]


def timed(action: Callable[[], int], repeats: int) -> tuple[float, int]:
    """The least seconds of an action, and what it returns."""
    best, found = float("inf"), 0
    for _ in range(repeats):
        started = time.perf_counter()
        found = action()
        best = min(best, time.perf_counter() - started)
    return best, found


def main(n: int, features: list[int], rel_eps: float, repeats: int, *, compile_only: bool) -> None:
    """Print a row for every way, with seconds and passes at each number of features."""
    print(
        f"n = m = {n}, rel_eps {rel_eps:g}, {torch.get_num_threads()} threads: seconds (passes) at {features} features"
    )
    for name, (cost, backend) in WAYS.items():
        cells = []
        for d in features:
            x0, x1 = points(32 if compile_only else n, d)
            problem = Problem(x0, x1, 1.0, cost=cost)

            def solve(problem: Problem = problem, backend: BackendName = backend) -> int:
                fresh = replace(problem, cost_moments=None).at(rel_eps)
                return solve_sinkhorn(fresh, backend=backend).report.passes

            seconds, passes = timed(solve, repeats)
            cells.append(f"{seconds:6.2f} ({passes})")
        print(f"{name:24s}" + "".join(f"{cell:>14s}" for cell in cells), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--features", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rel-eps", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="compile alone")
    options = parser.parse_args()
    main(options.n, options.features, options.rel_eps, options.repeats, compile_only=options.compile)
