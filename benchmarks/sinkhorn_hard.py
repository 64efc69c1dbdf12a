"""Passes on inputs of other shapes, over epsilon: few features, clusters, heavy tails; cold, and from an earlier block.

    python benchmarks/sinkhorn_hard.py [--n 4096] [--most 40]

Warm: started from the potential of a block with the same data and other noise, as blocks after the first epoch may be.
A number in brackets did not converge within `--most` passes: what follows is the error it reached.
"""

import argparse
import math

import torch

from flowpairs.pipeline.ot import Problem, solve_sinkhorn
from flowpairs.pipeline.ot.coupling import BlockReport

LEVELS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


def problems(n: int) -> dict[str, torch.Tensor]:
    """Target rows [n, d] by name; the source is a standard Gaussian."""
    random = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    angle = math.pi * torch.rand(n, generator=random)
    moons = torch.stack([angle.cos(), angle.sin()], 1)
    moons[::2] = torch.tensor([1.0, 0.5]) - moons[::2]
    eighth = torch.randint(0, 8, (n,), generator=random) * math.pi / 4
    centres = 5 * normal(20, 8)
    return {
        "a line": 3 * moons[:, :1] + 0.1 * normal(n, 1),
        "two moons": 3 * moons + 0.1 * normal(n, 2),
        "8 Gaussians": 5 * torch.stack([eighth.cos(), eighth.sin()], 1) + 0.1 * normal(n, 2),
        "20 clusters, d = 8": centres[torch.randint(0, 20, (n,), generator=random)] + 0.05 * normal(n, 8),
        "normal / uniform, d = 64": normal(n, 64) / (torch.rand(n, 1, generator=random) + 0.02),
    }


def told(report: BlockReport) -> str:
    """Passes, or what was reached."""
    return f"{report.passes}" if report.converged else f"({report.passes}) {report.target_error:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--most", type=int, default=40)
    options = parser.parse_args()
    print(f"n = m = {options.n}, L1 target 1e-3; passes cold / warm (seconds cold) at rel_eps {LEVELS}")
    for name, x1 in problems(options.n).items():
        first, second = (torch.randn(x1.shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
        cells = []
        for rel_eps in LEVELS:
            other = solve_sinkhorn(Problem(first, x1, 1.0).at(rel_eps), max_passes=options.most)
            block = Problem(second, x1, 1.0).at(rel_eps)
            cold = solve_sinkhorn(block, max_passes=options.most).report
            warm = solve_sinkhorn(block, max_passes=options.most, g0=other.g).report
            cells.append(f"{told(cold)} / {told(warm)} ({cold.seconds:.1f} s)")
        print(f"{name:24s} | " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
