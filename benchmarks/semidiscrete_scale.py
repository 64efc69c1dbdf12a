"""Time and memory of a semi-discrete solve over the number of data, each in a process of its own.

    python benchmarks/semidiscrete_scale.py [--data 8000 32000 128000 1000000] [--rel-eps 0 .01] [--threads 1]
        [--stop 1000000 1 .1]

Data are made: Gaussian in 64 dimensions with standard deviations between 0.5 and 2, around three centres. Solves aim at
a chi-square of 0.05. With as many data as the first number of `--stop`, or more, a solve ends after the second number
of rounds, which have only as many points as the third number, as a chi-square, would need. Lines below the table say
what a whole solve would cost at the points a datum of the largest one that went to its end, which is arithmetic.

Seconds are CPU time, an entry is a pair of a point and a datum, *kept* the largest number of entries a point that a
pass kept. Memory is the growth of the process's peak over what it held with its libraries loaded; the limit is
0.85 GB + 12 N d + 200 N bytes.
"""

import argparse
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.ot.semidiscrete import solver
from flowpairs.pipeline.ot.semidiscrete.point_pass import PointPass
from flowpairs.pipeline.ot.semidiscrete.targets import Targets

DIM, CHI2 = 64, 0.05
CONSTANT, PER_NUMBER, PER_DATUM = 0.85e9, 12, 200  # bytes of the limit
ENTRY = 12  # bytes of an entry during a pass


class Noise:
    """Gaussian points by counter."""

    def points(self, first: int, count: int) -> torch.Tensor:
        return torch.from_numpy(noise.gaussian(0, first, count, DIM, noise.Stream.SOLVE))


class Cost(NamedTuple):
    """What a solve took."""

    count: int
    rel_eps: float
    rounds: int
    points: int
    chi2: float
    converged: bool
    seconds: float
    kept: float
    memory: float

    def row(self) -> str:
        """The solve as a row of the table."""
        stopped = "" if self.converged else " (stopped)"
        return (
            f"| {self.count:,} | {self.rel_eps:g} | {self.rounds} | {self.points:,} | {self.chi2:.3f}{stopped} |"
            f" {self.seconds:,.0f} s | {self.seconds / self.points / self.count * 1e9:.2f} ns | {self.kept:.0f} |"
            f" {self.memory / 1e6:,.0f} MB | {self.memory / limit(self.count):.0%} |"
        )

    def extrapolated(self, aim: float, whole: "Cost") -> str:
        """What a whole solve would take, given the largest that went to its end."""
        points = whole.points / whole.count * self.count
        hours = self.seconds * points / self.points / 3600
        missing = self.points / self.rounds * (aim / CHI2 - 1)
        memory = self.memory + ENTRY * self.kept * missing
        return (
            f"Extrapolated to N = {self.count:,}, rel_eps {self.rel_eps:g}: {points / self.count:.1f} points a datum,"
            f" as at N = {whole.count:,}, would take {hours:.1f} hours of CPU time; a round of {aim / CHI2:.1f} times"
            f" the points would take {memory / 1e6:,.0f} MB, {memory / limit(self.count):.0%} of the limit."
        )


def limit(count: int) -> float:
    """The bytes by which a process may grow."""
    return CONSTANT + (PER_NUMBER * DIM + PER_DATUM) * count


def peak() -> float:
    """The process's largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def made(count: int) -> torch.Tensor:
    """The data."""
    random = torch.Generator().manual_seed(0)
    y = torch.randn(count, DIM, generator=random) * torch.linspace(0.5, 2, DIM)
    return y.add_(torch.randint(0, 3, (count, 1), generator=random))


def measure(out: Connection, threads: int, count: int, rel_eps: float, rounds: int, chi2: float) -> None:
    """Solve, and send the cost."""
    torch.set_num_threads(threads)
    kept, plain = [0.0], solver.point_pass

    def counted(*args: Any) -> PointPass:
        seen = plain(*args)
        kept.append(len(seen.entries.i) / seen.points)
        return seen

    solver.point_pass = counted
    Noise().points(0, 1)
    before = peak()
    targets = Targets(made(count))
    std = solver.semidiscrete_cost_std(targets, Noise())
    started = time.process_time()
    report = solver.solve_semidiscrete(targets, Noise(), rel_eps * std, chi2=chi2, max_rounds=rounds).report
    seconds, memory = time.process_time() - started, peak() - before
    end = report.rounds, report.points, report.chi2, report.converged
    out.send(Cost(count, rel_eps, *end, seconds, max(kept), memory))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=int, nargs="+", default=[8000, 32_000, 128_000, 1_000_000])
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.0, 0.01])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stop", type=float, nargs=3, default=[1e6, 1, 0.1], metavar=("DATA", "ROUNDS", "CHI2"))
    options = parser.parse_args()
    print("| N | rel_eps | rounds | points | chi2 | time | an entry | kept | memory | of the limit |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    costs, (least, rounds, aim), spawn = list[Cost](), options.stop, multiprocessing.get_context("spawn")
    for count in options.data:
        for rel_eps in options.rel_eps:
            ours, theirs = spawn.Pipe()
            end = (int(rounds), aim) if count >= least else (1000, CHI2)
            process = spawn.Process(target=measure, args=(theirs, options.threads, count, rel_eps, *end))
            process.start()
            theirs.close()
            costs.append(ours.recv())
            process.join()
            print(costs[-1].row(), flush=True)
    print()
    for cost in costs:
        whole = [other for other in costs if other.converged and other.rel_eps == cost.rel_eps]
        if not cost.converged and whole:
            print(cost.extrapolated(aim, whole[-1]))


if __name__ == "__main__":
    main()
