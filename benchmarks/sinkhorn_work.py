"""Passes over the n x m entries to an L1 error of 1e-3, over rel_eps: cold, and warm from another block's potentials.

    python benchmarks/sinkhorn_work.py [--n 8192] [--plain]
    python benchmarks/sinkhorn_work.py --sharpness [--sizes 256 900 2048 4096 8192]

One pass computes every entry once (one product, one exponential) and yields both halves of a Sinkhorn iteration.
`--plain` adds the plain iteration on the same passes, which is slow below .03.

`--sharpness` searches the epsilon of a sharpness E instead, and then solves at the epsilon found: passes of both,
counted in entries visited over n x m, those of thinned problems included. The last two columns are the ratios of passes
and of seconds, the latter noisy at small n.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from fashion import problem
from sinkhorn_hard import problems

from flowpairs.pipeline.ot import Problem, cost_std, solve_for_sharpness, solve_sinkhorn
from flowpairs.pipeline.ot.backends.protocol import TorchTiles
from flowpairs.pipeline.ot.coupling import BlockReport, EntropicCoupling
from flowpairs.pipeline.ot.sinkhorn.sweep import sweep
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers

LIMIT = 3000


def plain(block: Problem, tol: float) -> int:
    """Passes of Sinkhorn's own iteration from g = 0."""
    kernel = kernel_of(block)
    a, b = block.weights()
    gamma = kernel.log_b.clone()
    share = RowPartition(block.n, block.m, a.device)
    with Workers(a.device) as workers:
        for passes in range(1, LIMIT + 1):
            columns = sweep(kernel.bound(gamma, block.eps), gamma, a, share, workers).columns
            if (columns - b).abs().sum() < tol:
                return passes
            gamma = gamma + (b / columns.clamp(min=1e-30)).log2()
    return LIMIT


class Counted(TorchTiles):
    """Entries that all passes visited."""

    entries = 0

    def sweep(self, logits: Any, *arguments: Any, **options: Any) -> Any:
        """See `Backend.sweep`."""
        Counted.entries += logits.n * logits.m
        return sweep(logits, *arguments, **options)


def counted(solve: Callable[[], EntropicCoupling], entries: int) -> tuple[BlockReport, float, float]:
    """The report of a solve, its passes over `entries`, and its seconds."""
    Counted.entries, started = 0, time.perf_counter()
    report = solve().report
    return report, Counted.entries / entries, time.perf_counter() - started


def search(name: str, x0: torch.Tensor, x1: torch.Tensor, levels: tuple[float, ...]) -> None:
    """A row for every sharpness."""
    n = len(x0)
    for level in levels:
        found, passes, seconds = counted(lambda e=level: solve_for_sharpness(Problem(x0, x1, 1.0), e), n * n)
        once, least, shortest = counted(lambda e=found.eps: solve_sinkhorn(Problem(x0, x1, e)), n * n)
        assert found.converged
        print(
            f"{name:13s} {n:5d} | {level:4g} {found.sharpness:6.3f} {found.rel_eps:8.4f} | {passes:5.2f} "
            f"{once.passes:5d} {passes / least:6.2f} {seconds / shortest:6.2f}",
            flush=True,
        )


def sharpness(sizes: list[int]) -> None:
    """By sharpness rather than epsilon; below E = .3 plans in the plane need rel_eps 1e-4 and less."""
    TorchTiles.sweep = Counted.sweep  # type: ignore[method-assign]
    levels = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1, 0.05)
    print("problem           n | E asked for, reached, rel_eps | passes of the search, of a solve | ratios")
    for n in sizes:
        search("Fashion-MNIST", *problem(n), levels)
        for name in ("two moons", "8 Gaussians") if n < 8192 else ():
            x1 = problems(n)[name]
            search(name, torch.randn(x1.shape, generator=torch.Generator().manual_seed(1)), x1, levels[:7])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=8192)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--sharpness", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 900, 2048, 4096, 8192])
    options = parser.parse_args()
    if options.sharpness:
        sharpness(options.sizes)
        return
    x0, x1 = problem(options.n)
    fresh = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    std = cost_std(x0, x1)
    print(f"Fashion-MNIST, d = 64, n = m = {options.n}, L1 target 1e-3, {torch.get_num_threads()} threads")
    print("rel_eps |     E | cold: passes  seconds  L1 error | warm: passes  seconds  L1 error | plain: passes")
    for rel_eps in (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
        eps = rel_eps * std
        cold = solve_sinkhorn(Problem(x0, x1, eps))
        warm = solve_sinkhorn(Problem(fresh, x1, eps), g0=cold.g)
        row = f"{rel_eps:7g} | {cold.report.sharpness:5.3f} |"
        for report in (cold.report, warm.report):
            row += f" {report.passes:12d} {report.seconds:8.2f}  {report.target_error:8.1e} |"
            assert report.converged
        print(row + (f" {plain(Problem(x0, x1, eps), 1e-3):5d}" if options.plain and rel_eps >= 0.01 else " -"))


if __name__ == "__main__":
    main()
