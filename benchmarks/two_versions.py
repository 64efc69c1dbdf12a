"""Seconds of the same solves by two versions of flowpairs, by turns: the ratio says what became slower.

    git worktree add ../before COMMIT; make -C ../before setup
    python benchmarks/two_versions.py ../before/.venv/bin/python [--rounds 5]

Sinkhorn blocks of Fashion-MNIST at several epsilons, n = 4,096 and 8,192, and a semi-discrete solve of 4,000 of its
images at eps 0; each version in a process of its own, which solves one problem whenever it is told to, on one thread.
Cells are medians over rounds, the ratio that of each round.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

CASES = (("Sinkhorn", 4096, 0.1), ("Sinkhorn", 4096, 0.01), ("Sinkhorn", 8192, 0.1), ("semi-discrete", 4000, 0.0))
SOLVES = """
import sys, time
import numpy as np, torch
from fashion import problem
from flowpairs.pipeline.ot import Problem, Targets, solve_semidiscrete, solve_sinkhorn
torch.set_num_threads(1)

class Points:
    def points(self, first, count):
        blocks = range(first // 512, (first + count) // 512 + 1)
        rows = [np.random.default_rng(k).standard_normal((512, 64), np.float32) for k in blocks]
        return torch.from_numpy(np.concatenate(rows)[first % 512:][:count])

for line in sys.stdin:
    kind, n, eps = line.split()
    x0, x1 = problem(int(n))
    block = Problem(x0, x1, 1.0)
    began = time.perf_counter()
    if kind == "Sinkhorn":
        solve_sinkhorn(block.at(float(eps)))
    else:
        solve_semidiscrete(Targets(x1), Points(), 0.0, chi2=0.1)
    print(time.perf_counter() - began, flush=True)
"""


class Version:
    """A process of one version."""

    def __init__(self, python: str) -> None:
        here = str(Path(__file__).parent)
        code = f"import sys; sys.path.append({here!r})\n{SOLVES}"
        self.process = subprocess.Popen([python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, kind: str, n: int, rel_eps: float) -> float:
        """Seconds of one solve."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{kind} {n} {rel_eps}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="the python of the other version")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    versions = Version(options.before), Version(sys.executable)
    print("| solve | n | rel_eps | before | now | now / before |\n|---|---|---|---|---|---|")
    for case in CASES:
        for version in versions:
            version.seconds(*case)
        rounds = [[version.seconds(*case) for version in versions] for _ in range(options.rounds)]
        before, now = (statistics.median(each) for each in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        kind, n, rel_eps = case
        print(f"| {kind} | {n:,} | {rel_eps:g} | {before:.2f} s | {now:.2f} s | {ratio:.2f} |", flush=True)
    for version in versions:
        version.process.kill()


if __name__ == "__main__":
    main()
