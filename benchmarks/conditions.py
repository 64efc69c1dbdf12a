"""What a coupling that does not see labels does to a conditional flow: 8 Gaussians -> two moons, the moon as the label.

    python benchmarks/conditions.py [--data 4000] [--steps 4000] [--seeds 3]

Data are points of two moons, labelled by their moon; the source are 8 Gaussians, whatever the label. A small MLP that
is given the label learns the velocity of pairs by an independent coupling, and by semi-discrete ones: blind to labels,
one problem a class, and with the extended cost c_X + beta [labels differ]. Then noise is given a label at random, and
its samples are held against test points of that moon: W2^2, the mean over the two moons, sampled in 100 Euler steps
without guidance. All potentials are solved to a chi-square of 0.05.
"""

import argparse
import math
import time
from itertools import pairwise

import numpy as np
import ot
import torch
from torch import Tensor, nn

from flowpairs.pipeline.ot.semidiscrete.assign import Assignment
from flowpairs.pipeline.ot.semidiscrete.solver import solve_semidiscrete
from flowpairs.pipeline.ot.semidiscrete.targets import Targets

BATCH, EULER, TESTS, CHI2 = 256, 100, 2000, 0.05
BETAS = (1.0, 10.0, 100.0)


def gaussians(rows: np.random.Generator, n: int) -> np.ndarray:
    """Eight on a circle of radius 5."""
    angle = rows.integers(8, size=n) * (math.pi / 4)
    return (5 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.56 * rows.normal(size=(n, 2))).astype(np.float32)


def moons(rows: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Points of two moons and which moon each is of."""
    label, angle = rows.integers(2, size=n), rows.uniform(0, math.pi, size=n)
    outer, inner = np.stack([np.cos(angle), np.sin(angle)], 1), np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    points = 3 * (np.where(label[:, None] == 0, outer, inner) + 0.05 * rows.normal(size=(n, 2))) - 1
    return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(label)


class Source:
    """8 Gaussians by number, with the weighted label of a datum behind them where the cost is extended."""

    dim = 0  # no coordinate is standard Gaussian

    def __init__(self, beta: float = 0.0) -> None:
        self.beta = beta

    def points(self, first: int, count: int) -> Tensor:
        rows = np.random.default_rng([7, first])
        x = torch.from_numpy(gaussians(rows, count))
        return x if self.beta == 0 else with_label(x, torch.from_numpy(rows.integers(2, size=count)), self.beta)


def with_label(x: Tensor, label: Tensor, beta: float) -> Tensor:
    """Features whose dot product is that of x plus beta where labels agree."""
    return torch.cat([x, math.sqrt(beta) * nn.functional.one_hot(label, 2)], 1)


class Pairs:
    """Endless pairs (x0, x1, label of x1) of one kind of coupling."""

    def __init__(self, kind: str, y: Tensor, label: Tensor, beta: float = 0.0) -> None:
        self.kind, self.y, self.label, self.beta = kind, y, label, beta
        self.parts, started = [], time.perf_counter()
        groups = [(label == c).nonzero()[:, 0] for c in (0, 1)] if kind == "class" else [torch.arange(len(y))]
        if kind != "independent":
            features = with_label(y, label, beta) if beta else y
            for ids in groups:
                solved = solve_semidiscrete(Targets(features[ids]), Source(beta), 0.0, chi2=CHI2)
                assert solved.report.converged
                self.parts.append((ids, Assignment(features[ids], solved.g, 0.0)))
        self.seconds = time.perf_counter() - started

    def draw(self, rows: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x0, z = torch.from_numpy(gaussians(rows, BATCH)), self.label[rows.integers(len(self.y), size=BATCH)]
        ids = torch.from_numpy(rows.integers(len(self.y), size=BATCH))
        asked = with_label(x0, z, self.beta) if self.beta else x0
        for c, (among, assignment) in enumerate(self.parts):
            mine = (z == c).nonzero()[:, 0] if self.kind == "class" else torch.arange(BATCH)
            ids[mine] = among[assignment.partners(asked[mine].double(), torch.zeros(len(mine), dtype=torch.float64))]
        return x0, self.y[ids], self.label[ids]


class Net(nn.Module):
    """An MLP of time, place and label."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [5, 128, 128, 128]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SELU())]
        self.layers = nn.Sequential(*layers, nn.Linear(128, 2))

    def forward(self, t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None], nn.functional.one_hot(label, 2)], 1))


def trained(pairs: Pairs, steps: int, seed: int) -> Net:
    torch.manual_seed(seed)
    rows, net = np.random.default_rng([1, seed]), Net()
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        (x0, x1, label), t = pairs.draw(rows), torch.rand(BATCH)
        point = torch.lerp(x0, x1, t[:, None])
        loss = (net(t, point, label) - (x1 - x0)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net


@torch.no_grad()
def distance(net: Net, seed: int) -> float:
    """Mean over the labels of W2^2 between samples and test points."""
    rows, out = np.random.default_rng([2, seed]), []
    points, label = moons(rows, 3 * TESTS)
    for c in (0, 1):
        x, z = torch.from_numpy(gaussians(rows, TESTS)), torch.full((TESTS,), c)
        for k in range(EULER):
            x = x + net(torch.full((TESTS,), k / EULER), x, z) / EULER
        test = points[label == c][:TESTS]
        cost = torch.cdist(x, test).square().double().numpy()
        out.append(ot.emd2(np.full(TESTS, 1 / TESTS), np.full(TESTS, 1 / TESTS), cost))
    return float(np.mean(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    y, label = moons(np.random.default_rng(0), options.data)
    kinds = [("independent", 0.0), ("blind", 0.0), ("class", 0.0), *(("extended", beta) for beta in BETAS)]
    print(f"{options.data:,} data, {options.steps:,} steps of {BATCH}; W2^2 to test points of the label's moon")
    for kind, beta in kinds:
        pairs = Pairs(kind, y, label, beta)
        found = [distance(trained(pairs, options.steps, seed), seed) for seed in range(options.seeds)]
        name = f"{kind}, beta {beta:g}" if beta else kind
        print(
            f"{name:20s} {np.mean(found):.3f} +- {np.std(found):.3f}   potentials in {pairs.seconds:.1f} s", flush=True
        )


if __name__ == "__main__":
    main()
