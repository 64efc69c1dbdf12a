"""What each pass of a solve is for, and what it would take to have fewer: errors pass by pass, and other settings.

    python benchmarks/sinkhorn_passes.py [--n 8192 16384] [--rel-eps .3 .1 .03 .01] [--data fashion plane]

The solver's own settings, beside: four times the entries in every surrogate and a tenth of the error left in it (fewer
passes, dearer steps), and a first pass over a quarter of the rows (counted by its entries). Passes, the target
marginal's L1 error after each, and seconds in units of the solver's own.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from fashion import problem

from flowpairs.pipeline.ot import Problem, solve_sinkhorn
from flowpairs.pipeline.ot.sinkhorn import descent, solver
from flowpairs.pipeline.ot.sinkhorn.solver import softmin

QUARTER = 4


def plane(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight Gaussians on a circle."""
    generator = torch.Generator().manual_seed(1)
    angle = torch.randint(0, 8, (n,), generator=generator) * (torch.pi / 4)
    centres = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    return torch.randn(n, 2, generator=generator), centres + 0.3 * torch.randn(n, 2, generator=generator)


def own(block: Problem) -> tuple[float, list[float]]:
    """The solver as it is."""
    errors: list[float] = []
    solve_sinkhorn(block, progress=lambda _, error: errors.append(error))
    return len(errors), errors


def dear(block: Problem) -> tuple[float, list[float]]:
    """Surrogates of four times the entries, solved ten times as well."""
    names = {"FEW": 4, "MANY": 4, "OF_TOL": 0.1, "OF_ERROR": 0.1}
    before, cold = {name: getattr(descent, name) for name in names}, solver.cold
    try:
        for name, factor in names.items():
            setattr(descent, name, type(before[name])(before[name] * factor))
        solver.cold = lambda *arguments: replace(cold(*arguments), keep=descent.FEW)
        return own(block)
    finally:
        solver.cold = cold
        for name, value in before.items():
            setattr(descent, name, value)


def quarter(block: Problem) -> tuple[float, list[float]]:
    """A start from passes over a quarter of rows and columns to an error of .05, extended by one to all columns."""
    few = descent.thinned(block, block.eps, every=QUARTER)
    errors: list[float] = []
    start = solve_sinkhorn(few, tol=0.05, progress=lambda _, error: errors.append(error))
    g = softmin(replace(block.turned(few.x0, few.weights()[0]), eps=block.eps), start.f)
    whole: list[float] = []
    solve_sinkhorn(block, g0=g, progress=lambda _, error: whole.append(error))
    return len(whole) + len(errors) / QUARTER**2 + 1 / QUARTER, errors + whole


SETTINGS: dict[str, Callable[[Problem], tuple[float, list[float]]]] = {
    "as it is": own,
    "4 x entries, solved to a tenth": dear,
    "start from a quarter": quarter,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.3, 0.1, 0.03, 0.01])
    parser.add_argument("--data", nargs="+", choices=["fashion", "plane"], default=["fashion", "plane"])
    options = parser.parse_args()
    for name in options.data:
        for n in options.n:
            x0, x1 = {"fashion": problem, "plane": plane}[name](n)
            for rel_eps in options.rel_eps:
                block, unit = Problem(x0, x1, 1.0).at(rel_eps), 0.0
                for setting, solve in SETTINGS.items():
                    started = time.perf_counter()
                    passes, errors = solve(block)
                    seconds = time.perf_counter() - started
                    unit = unit or seconds
                    trail = " ".join(f"{error:.1e}" for error in errors)
                    print(f"{name} {n} rel_eps {rel_eps:g}  {setting}: {passes:.2f} passes, ", end="")
                    print(f"{seconds / unit:.2f} x the time; errors {trail}", flush=True)


if __name__ == "__main__":
    main()
