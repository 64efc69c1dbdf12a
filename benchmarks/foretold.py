"""Passes with the rows' log-sums foretold by the stand-in against passes with exact ones, and the sweeps these are.

    python benchmarks/foretold.py [--n 4096] [--rounds 9]

On GPUs a pass at exact log-sums is two sweeps over all entries, and one at foretold ones is the second alone
(pipeline/ot/backends/fused/backend.py). Here torch plays both, by looking twice: what a pass measures, and so the
number of passes, is the same but for rounding and for which entries are kept. Cells: passes exact / foretold, and
sweeps, where a piece of rows that has to be passed again counts by its rows. Data: those of
benchmarks/sinkhorn_hard.py, and n of Fashion-MNIST and CIFAR-10 in 64 principal directions (FLOWPAIRS_DATA, as in
benchmarks/fashion.py).

The last line is what foretold rows could save on a CPU, where a tile has whole rows: their maximum, as a share of the
time of a pass with large entries.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import torch
from fashion import problem
from sinkhorn_hard import LEVELS, problems
from torch import Tensor
from worth import cifar

from flowpairs.pipeline.ot import Problem, solve_sinkhorn
from flowpairs.pipeline.ot.backends.fused.backend import OFF
from flowpairs.pipeline.ot.backends.protocol import TorchTiles
from flowpairs.pipeline.ot.sinkhorn import solver
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep, sweep
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers
from flowpairs.training.metrics.frechet import Principal


class Foretelling(TorchTiles):
    """Torch tiles that measure as the fused kernels do, and count their sweeps."""

    foretells = True

    def __init__(self) -> None:
        self.sweeps = 0.0

    def sweep(self, *args: Any, foretold: Tensor | None = None, **options: Any) -> Sweep:
        """Pass; at foretold sums once more, with the masses of rows that these give."""
        logits, gamma, a, share, workers = args
        seen = super().sweep(*args, **options)
        if foretold is None:
            self.sweeps += 2
            return seen
        off, masses, again = seen.phi - foretold, a.clone(), 0
        for rows in share.all_pieces():
            if bool((off[rows].abs() < OFF).all()):
                masses[rows] *= off[rows].exp2()
            else:
                again += 2 * (rows.stop - rows.start)
        self.sweeps += 1 + again / len(a)
        masses /= masses.sum()
        return replace(super().sweep(logits, gamma, masses, share, workers, **options), masses=masses)


def solved(block: Problem, most: int) -> str:
    """Passes and sweeps of a solve with exact and with foretold rows."""
    exact = solve_sinkhorn(block, max_passes=most, backend="torch").report
    backend, choose = Foretelling(), solver.choose
    solver.choose = lambda *_: backend
    try:
        report = solve_sinkhorn(block, max_passes=most).report
    finally:
        solver.choose = choose
    mark = "" if report.converged and exact.converged else " !"
    return f"{exact.passes} / {report.passes}, {2 * exact.passes} / {backend.sweeps:.1f}{mark}"


def maximum(n: int, rounds: int) -> float:
    """The share of a pass on a CPU that its rows' maxima take."""
    x0, x1 = problem(n)
    block = Problem(x0, x1, 1.0).at(0.1)
    kernel = kernel_of(block)
    gamma = kernel.gamma(solve_sinkhorn(block).g, block.eps)
    logits, a = kernel.bound(gamma, block.eps), block.weights()[0]
    share, plain, best = RowPartition(n, n, a.device), torch.Tensor.amax, [float("inf")] * 2

    def cheap(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return plain(self[:, :1], *args, **options)

    with Workers(a.device) as workers:
        for _ in range(rounds):
            for k, amax in enumerate((plain, cheap)):
                torch.Tensor.amax = amax
                started = time.perf_counter()
                sweep(logits, gamma, a, share, workers, marginal=True)
                best[k] = min(best[k], time.perf_counter() - started)
                torch.Tensor.amax = plain
    return 1 - best[1] / best[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--most", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    data = problems(options.n)
    images = cifar()
    data["CIFAR-10, d = 64"] = Principal.fit(images[::4], 64)(images[: options.n]).float()
    data["Fashion-MNIST, d = 64"] = problem(options.n)[1]
    print(f"| n = m = {options.n:,}, rel_eps | {' | '.join(f'{level:g}' for level in LEVELS)} |")
    print(f"|{'---|' * (1 + len(LEVELS))}")
    for name, x1 in data.items():
        x0 = torch.randn(x1.shape, generator=torch.Generator().manual_seed(1))
        cells = [solved(Problem(x0, x1, 1.0).at(level), options.most) for level in LEVELS]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"the rows' maximum is {maximum(8192, options.rounds):.1%} of a pass on this CPU")


if __name__ == "__main__":
    main()
