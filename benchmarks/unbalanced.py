"""Passes, seconds and mass of unbalanced plans over eps and prices, beside POT's solvers, in one run.

    python benchmarks/unbalanced.py [--n 2000] [--rel-eps .1 .03 .01 .003] [--patience 50]

Two clouds of Gaussian points in 8 dimensions, a tenth of the second far off; the squared distance; prices tau in units
of the cost's standard deviation, of both marginals or of the target's alone. POT's translation-invariant solver gets
10, 100, 1,000, ... iterations until its plan is as near as flowpairs', or until the next try would take `--patience`
times the seconds of flowpairs; the seconds are those of its last try. Errors are L1 distances, over the mass, from the
plan of flowpairs at a tolerance of 1e-9.
"""

import argparse
import math
import time

import numpy as np
import ot
import torch

from flowpairs.pipeline.ot import Coupling, Problem, Relax, solve_relaxed

PRICES = ((1.0, 1.0), (0.1, 0.1), (math.inf, 0.3))


def clouds(n: int) -> Problem:
    """The points."""
    random = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(n, 8, generator=random) for _ in range(2))
    x1[: n // 10] += 3
    return Problem(x0, x1 * 1.3, 1.0, cost="sqeuclidean")


def plan(found: Coupling, cost: np.ndarray) -> np.ndarray:
    """The whole plan as a matrix."""
    (a, b), f, g = found.problem.weights(), found.f.numpy(), found.g.numpy()
    dual = np.exp((f[:, None] + g[None] - cost) / found.problem.eps)
    return found.report.mass * a.numpy()[:, None] * b.numpy()[None] * dual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.1, 0.03, 0.01, 0.003])
    parser.add_argument("--patience", type=float, default=50.0)
    options = parser.parse_args()
    points = clouds(options.n)
    cost = ot.dist(points.x0.double().numpy(), points.x1.double().numpy())
    print("| prices | rel_eps | mass | passes | flowpairs | error | POT | its error |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for prices in PRICES:
        for rel_eps in options.rel_eps:
            problem = points.at(rel_eps)
            std = problem.eps / rel_eps
            relax = Relax(*(price * std for price in prices))
            started = time.perf_counter()
            found = solve_relaxed(problem, relax)
            seconds = time.perf_counter() - started
            true = plan(solve_relaxed(problem.in_float64(), relax, tol=1e-9), cost)
            a, b = (weights.numpy() for weights in problem.weights())
            apart = np.abs(plan(found, cost) - true).sum() / true.sum()
            prices_of_pot, iterations, took, other = (relax.source, relax.target), 1, 0.0, math.inf
            while not other <= max(apart, 1e-3) and 10 * took < options.patience * seconds:
                iterations, started = 10 * iterations, time.perf_counter()
                theirs = ot.unbalanced.sinkhorn_unbalanced(
                    *(a, b, cost, problem.eps, prices_of_pot),
                    method="sinkhorn_translation_invariant",
                    reg_type="kl",
                    numItermax=iterations,
                    stopThr=0.0,
                )
                took, other = time.perf_counter() - started, np.abs(theirs - true).sum() / true.sum()
            print(
                f"| {prices[0]:g}, {prices[1]:g} | {rel_eps:g} | {found.report.mass:.3f} | {found.report.passes} | "
                f"{seconds:.2f} s | {apart:.1e} | {took:.1f} s | {other:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
