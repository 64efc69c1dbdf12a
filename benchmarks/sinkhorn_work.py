"""Passes over the n x m entries to an L1 error of 1e-3, over rel_eps: cold, and warm from another block's potentials.

    python benchmarks/sinkhorn_work.py [--n 8192] [--plain]

One pass computes every entry once (one product, one exponential) and yields both halves of a Sinkhorn iteration.
`--plain` adds the plain iteration on the same passes, which is slow below .03.
"""

import argparse

import torch
from fashion import problem

from pipeline.ot import Problem, cost_std, solve_for_entropy, solve_sinkhorn
from pipeline.ot.kernel import kernel_of
from pipeline.ot.share import Share
from pipeline.ot.sweep import sweep
from pipeline.ot.tiles import Workers

LIMIT = 3000


def plain(block: Problem, tol: float) -> int:
    """Passes of Sinkhorn's own iteration from g = 0."""
    kernel = kernel_of(block)
    a, b = block.weights()
    gamma = kernel.log_b.clone()
    share = Share(block.n, block.m, a.device)
    with Workers(a.device) as workers:
        for passes in range(1, LIMIT + 1):
            columns = sweep(kernel.bound(gamma, block.eps), gamma, a, share, workers).columns
            if (columns - b).abs().sum() < tol:
                return passes
            gamma = gamma + (b / columns.clamp(min=1e-30)).log2()
    return LIMIT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=8192)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    x0, x1 = problem(options.n)
    fresh = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    std = cost_std(x0, x1)
    print(f"Fashion-MNIST, d = 64, n = m = {options.n}, L1 target 1e-3, {torch.get_num_threads()} threads")
    print("rel_eps |     E | cold: passes  seconds  L1 error | warm: passes  seconds  L1 error | plain: passes")
    for rel_eps in (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001):
        eps = rel_eps * std
        cold = solve_sinkhorn(Problem(x0, x1, eps))
        warm = solve_sinkhorn(Problem(fresh, x1, eps), g0=cold.g)
        row = f"{rel_eps:7g} | {cold.report.entropy:5.3f} |"
        for report in (cold.report, warm.report):
            row += f" {report.passes:12d} {report.seconds:8.2f}  {report.target_error:8.1e} |"
            assert report.converged
        print(row + (f" {plain(Problem(x0, x1, eps), 1e-3):5d}" if options.plain and rel_eps >= 0.01 else " -"))

    print("\nE asked for, E reached, rel_eps found | passes with the search | passes of a solve at that eps")
    for sharpness in (0.95, 0.9, 0.7, 0.5, 0.3, 0.1, 0.05, 0.03):
        found = solve_for_entropy(Problem(x0, x1, 1.0), sharpness).report
        alone = solve_sinkhorn(Problem(x0, x1, found.eps)).report
        print(f"{sharpness:5g} {found.entropy:6.3f} {found.rel_eps:8.4f} | {found.passes:3d} | {alone.passes:3d}")


if __name__ == "__main__":
    main()
