"""Cost of one pass, or of a solve at rel_eps 0.1, and the process's peak memory over n, d = 64.

    python benchmarks/sinkhorn_scaling.py [--most 131072] [--solve]

Each n runs in a process of its own, so that its peak is its own; the first column of memory is that of the imports.
"""

import argparse
import resource
import subprocess
import sys
import time

SIZES = (4096, 8192, 16384, 32768, 65536, 131072)


def measure(n: int, whole: bool) -> None:
    """One pass as the solver makes it, with the large entries collected, or a whole solve."""
    import torch

    from flowpairs.pipeline.ot import Problem, cost_std, solve_sinkhorn
    from flowpairs.pipeline.ot.sinkhorn.sweep import sweep
    from flowpairs.pipeline.ot.tiles.kernel import kernel_of
    from flowpairs.pipeline.ot.tiles.partition import RowPartition
    from flowpairs.pipeline.ot.tiles.tiling import Workers

    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    random = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(n, 64, generator=random) for _ in range(2))
    x1 *= torch.linspace(2, 0.1, 64)
    block = Problem(x0, x1, 0.1 * cost_std(x0, x1))
    kernel = kernel_of(block)
    a = block.weights()[0]
    gamma = kernel.log_b
    started, passes = time.perf_counter(), 1
    if whole:
        passes = solve_sinkhorn(block).report.passes
        seconds = time.perf_counter() - started
    else:
        with Workers(a.device) as workers:
            started = time.perf_counter()
            sweep(kernel.bound(gamma, block.eps), gamma, a, RowPartition(n, n, a.device), workers, keep=64)
            seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate = seconds / (passes * n**2) * 1e9
    memory = f"{imports:5.2f} GB | {peak:5.2f} GB"
    print(f"{n:7d} | {passes:6d} | {seconds:8.2f} s | {rate:6.2f} ns/entry | {memory}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument("--solve", action="store_true", help="a whole solve instead of a pass")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        measure(options.only, options.solve)
        return
    print("      n | passes | seconds   | per pass        | imports  | peak", flush=True)
    for n in SIZES:
        if n <= options.most:
            extra = ["--solve"] if options.solve else []
            subprocess.run([sys.executable, __file__, "--only", str(n), *extra], check=True)


if __name__ == "__main__":
    main()
