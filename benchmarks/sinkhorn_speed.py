"""How fast a pass is against its ingredients.

    python benchmarks/sinkhorn_speed.py [--n 8192] [--rounds 9]

The ingredients are measured in the same run on the same threads: the float32 product X Y^T at that shape and exp2 on a
buffer that stays in cache, one after the other. A half-pass is the soft-min of every row; a pass is both halves of a
Sinkhorn iteration and the error of the potential that it started from. All works take turns, so that a disturbance
hits all alike; the least time counts.
"""

import argparse
import time
from collections.abc import Callable

import torch
from fashion import problem

from flowpairs.pipeline.ot import Problem, solve_sinkhorn
from flowpairs.pipeline.ot.sinkhorn.sweep import sweep
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers


def least(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """The least time of each work, taken in turn."""
    out = [float("inf")] * len(works)
    for _ in range(rounds):
        for k, work in enumerate(works):
            started = time.perf_counter()
            work()
            out[k] = min(out[k], time.perf_counter() - started)
    return out


def measure(n: int, rel_eps: float, rounds: int) -> list[float]:
    """Seconds of the product, the exponentials, a half-pass, a pass, and passes that find more."""
    x0, x1 = problem(n)
    block = Problem(x0, x1, 1.0).at(rel_eps)
    kernel = kernel_of(block)
    a = block.weights()[0]
    gamma = kernel.gamma(solve_sinkhorn(block).g, block.eps)
    logits = kernel.bound(gamma, block.eps)
    share = RowPartition(n, n, a.device)
    product = torch.empty(n, n)
    # The arguments that a pass meets: one tile's logits below their rows' largest.
    tile = logits.tile(slice(0, 64), logits.empty(64, n))[:, :1024].contiguous()
    tile -= tile.amax(1, keepdim=True)
    with Workers(a.device) as workers:

        def exponentials(_: int) -> None:
            out = torch.empty_like(tile)
            for _ in range(n * n // tile.numel() // workers.threads):
                torch.exp2(tile, out=out)

        def multiply() -> None:
            torch.set_num_threads(workers.threads)
            torch.mm(x0, x1.T, out=product)
            torch.set_num_threads(1)

        def one_pass(**options: object) -> Callable[[], object]:
            return lambda: sweep(logits, gamma, a, share, workers, **options)

        return least(
            [
                multiply,
                lambda: list(workers.map(exponentials, range(workers.threads))),
                one_pass(marginal=False),
                one_pass(),
                one_pass(entropies=True),
                one_pass(keep=64),
                one_pass(keep=64, entropies=True),
            ],
            rounds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=8192)
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[1.0, 0.1, 0.01, 0.003])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"One pass at n = m = {options.n}, d = 64, on {torch.get_num_threads()} threads; least of {options.rounds}")
    print(
        "rel_eps | product + exp2 in cache   | half-pass      | pass           | and entropies  | and entries    | both"
    )
    for rel_eps in options.rel_eps:
        product, exponentials, *passes = measure(options.n, rel_eps, options.rounds)
        parts = product + exponentials
        row = " | ".join(f"{t:.3f} s {t / parts:4.2f} x" for t in passes)
        print(f"{rel_eps:7g} | {product:.3f} + {exponentials:.3f} = {parts:.3f} s | {row}", flush=True)


if __name__ == "__main__":
    main()
