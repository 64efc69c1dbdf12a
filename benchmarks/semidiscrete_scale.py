"""Time and memory of a semi-discrete solve over the number of data, each in a process of its own.

    python benchmarks/semidiscrete_scale.py [--data 8000 32000 125000 1000000] [--rel-eps 0 .01] [--rounds 1000000 2]

Data are made: Gaussian in 64 dimensions with standard deviations between 0.5 and 2, around three centres. With
as many data as the first number of `--rounds`, or more, a solve ends after the second number of rounds, and the table
says what these cost. Memory is the growth of the process's peak over what it held with its libraries loaded, in bytes
and in bytes per number of the data.
"""

import argparse
import multiprocessing
import resource
import time

import torch

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.ot.semidiscrete.solver import semidiscrete_cost_std, solve_semidiscrete
from flowpairs.pipeline.ot.semidiscrete.targets import Targets

DIM, CHI2 = 64, 0.05


class Noise:
    """Gaussian points by counter."""

    def points(self, first: int, count: int) -> torch.Tensor:
        return torch.from_numpy(noise.gaussian(0, first, count, DIM, noise.Stream.SOLVE))


def peak() -> float:
    """The process's largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def made(count: int) -> torch.Tensor:
    """The data."""
    random = torch.Generator().manual_seed(0)
    y = torch.randn(count, DIM, generator=random) * torch.linspace(0.5, 2, DIM)
    return y.add_(torch.randint(0, 3, (count, 1), generator=random))


def measure(count: int, rel_eps: float, rounds: int) -> None:
    """Solve and print a row of the table."""
    Noise().points(0, 1)
    before = peak()
    targets = Targets(made(count))
    std = semidiscrete_cost_std(targets, Noise())
    started = time.perf_counter()
    report = solve_semidiscrete(targets, Noise(), rel_eps * std, chi2=CHI2, max_rounds=rounds).report
    seconds, memory = time.perf_counter() - started, peak() - before
    per_entry = seconds / (report.points * count) * 1e9
    print(
        f"| {count:,} | {rel_eps:g} | {report.rounds} | {report.points:,} | {report.chi2:.3f}"
        f"{'' if report.converged else ' (stopped)'} | {seconds:.1f} s | {per_entry:.2f} ns | {memory / 1e6:,.0f} MB |"
        f" {memory / (count * DIM):.1f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=int, nargs="+", default=[8000, 32_000, 125_000, 1_000_000])
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.0, 0.01])
    parser.add_argument("--rounds", type=int, nargs=2, default=[1_000_000, 2], metavar=("DATA", "ROUNDS"))
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads\n")
    print("| N | rel_eps | rounds | points | chi2 | time | an entry | memory | / N d |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for count in options.data:
        for rel_eps in options.rel_eps:
            rounds = options.rounds[1] if count >= options.rounds[0] else 1000
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(count, rel_eps, rounds))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
