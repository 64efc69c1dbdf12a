"""The two-dimensional table of arXiv 2302.00482: W2 and normalised path energy (NPE), over seeds, beside its figures.

    python benchmarks/toy2d.py [--points 10000] [--steps 5000] [--seeds 5] [--problems ...] [--methods ...]

The paper's protocol: an MLP of 3 x 64 SELU, AdamW at 1e-3, batches of 256 coupled by themselves, 100 Euler steps, and
W2 between as many samples and test points, both drawn at random. NPE is |E int |v|^2 dt - W2^2| / W2^2, W2 between
source and target. The paths and objectives are training's, the couplings flowpairs.pipeline.ot's: a pool of batches is
coupled first and trained on over and over, as a store of pairs would be. All seeds train at once, as one batched
network.

"floor" is the W2 between two sets of test points: no model can be expected to fall below it.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable

import numpy as np
import ot
import torch
from torch import Tensor, nn

from flowpairs.pipeline.ot import Problem, independent, solve_exact, solve_sinkhorn
from flowpairs.training.objectives.objective import BridgeMatching, Objective
from flowpairs.training.objectives.probability_paths import Bridge, Straight, TargetOnly
from flowpairs.training.pairs.batch import Batch, BatchRows

BATCH, EULER = 256, 100
SIGMA, BRIDGE = 0.1, 1.0  # of the paths; of the bridges


def normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator)


def gaussians(n: int, generator: torch.Generator) -> Tensor:
    """Eight on a circle of radius 5; the paper's code has the root of its 0.1 as their variance."""
    angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
    return 5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1**0.25 * normal(n, generator)


def moons(n: int, generator: torch.Generator) -> Tensor:
    """Two half circles, evenly spaced points on each, shifted along the diagonal at random."""
    half = torch.linspace(0, math.pi, n // 2)
    outer, inner = torch.stack([half.cos(), half.sin()], 1), torch.stack([1 - half.cos(), 0.5 - half.sin()], 1)
    points = torch.cat([outer, inner])[torch.randperm(n // 2 * 2, generator=generator)]
    return 3 * (points + 0.2 * torch.rand(len(points), 1, generator=generator)) - 1


PROBLEMS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "N->8gaussians": (normal, gaussians),
    "8gaussians->moons": (gaussians, moons),
    "N->moons": (normal, moons),
}
METHODS: dict[str, tuple[str, Objective]] = {  # how batches are coupled, and what is regressed on
    "OT-CFM": ("exact", Objective(0, Straight(SIGMA))),
    "I-CFM": ("independent", Objective(0, Straight(SIGMA))),
    "FM": ("independent", Objective(0, TargetOnly(SIGMA))),
    "SB-CFM": ("entropic", Objective(0, Bridge(BRIDGE))),
    "[SF]2M": ("entropic", BridgeMatching(0, Bridge(BRIDGE))),
}
PUBLISHED = {  # W2, NPE
    ("N->8gaussians", "OT-CFM"): (0.303, 0.031),
    ("N->8gaussians", "I-CFM"): (0.373, 0.202),
    ("N->8gaussians", "FM"): (0.343, 0.190),
    ("8gaussians->moons", "OT-CFM"): (0.601, 0.015),
    ("8gaussians->moons", "I-CFM"): (1.557, 2.680),
    ("N->moons", "OT-CFM"): (0.130, 0.083),
    ("N->moons", "I-CFM"): (0.178, 0.891),
}


class Networks(nn.Module):
    """One MLP a seed, evaluated together: sample i of a batch belongs to seed i // (batch / seeds).

    Args:
        seeds: how many.
        heads: 1 for a velocity, 2 for velocity and score by a network each.
        dim: of the data.
        width: of the three hidden layers.
    """

    def __init__(self, seeds: int, heads: int, dim: int = 2, width: int = 64) -> None:
        super().__init__()
        self.seeds, self.heads = seeds, heads
        sizes = [dim + 1, width, width, width, dim]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for ins, outs in itertools.pairwise(sizes):
            bound = ins**-0.5  # torch's own initialisation of a linear layer
            self.weights.append(torch.empty(heads * seeds, ins, outs).uniform_(-bound, bound))
            self.biases.append(torch.empty(heads * seeds, 1, outs).uniform_(-bound, bound))

    def forward(self, t: Tensor, x: Tensor, label: None = None) -> Tensor | tuple[Tensor, ...]:
        h = torch.cat([x, t[:, None]], 1).unflatten(0, (self.seeds, -1)).repeat(self.heads, 1, 1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, nn.functional.selu(h) if layer else h, weight)
        out = h.reshape(self.heads, *x.shape)
        return out[0] if self.heads == 1 else (out[0], out[1])


def pool(problem: str, how: str, batches: int, seed: int) -> Tensor:
    """Coupled batches [batches, BATCH, 2 (source, target), 2]."""
    generator, out = torch.Generator().manual_seed(1000 + seed), []
    source, target = PROBLEMS[problem]
    for _ in range(batches):
        x0, x1 = source(BATCH, generator), target(BATCH, generator)
        block = Problem(x0, x1, 2 * BRIDGE**2, cost="sqeuclidean")
        solve = {"exact": solve_exact, "independent": independent, "entropic": solve_sinkhorn}[how]
        u = torch.rand(BATCH, generator=generator, dtype=torch.float64)
        out.append(torch.stack([x0, x1[solve(block).draw(u)]], 1))
    return torch.stack(out)


def train(objective: Objective, pools: Tensor, steps: int, width: int = 64) -> Networks:
    """On the pools of all seeds [seeds, batches, BATCH, 2 (source, target), d], batch after batch."""
    seeds, batches, dim = *pools.shape[:2], pools.shape[4]
    torch.manual_seed(0)
    networks = Networks(seeds, 2 if isinstance(objective, BridgeMatching) else 1, dim, width)
    optimiser = torch.optim.AdamW(networks.parameters(), lr=1e-3, fused=True)
    rows = BatchRows(0, seeds * BATCH, seeds * BATCH)
    for step in range(steps):
        x0, x1 = pools[:, step % batches].flatten(0, 1).unbind(1)
        batch = Batch(x0, x1, rows, drawn=objective.draw(step, rows, tuple(x1.shape[1:])))
        errors, weights = objective(networks, networks, batch)
        optimiser.zero_grad()
        (seeds * errors * weights).mean().backward()
        optimiser.step()
    return networks


@torch.no_grad()
def sample(networks: Networks, x: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of 100 Euler steps and path energies, from x [seeds, n, 2]: [seeds, n, 2] and [seeds]."""
    energy = torch.zeros(len(x))
    for step in range(EULER):
        flat = x.reshape(-1, 2)
        v = networks(torch.full((len(flat),), step / EULER), flat)
        v = (v if networks.heads == 1 else v[0]).view_as(x)
        energy += v.square().sum(2).mean(1) / EULER
        x = x + v / EULER
    return x, energy


def w2(x: Tensor, y: Tensor) -> float:
    """Exact 2-Wasserstein distance of two samples."""
    return ot.emd2([], [], ot.dist(x.double().numpy(), y.double().numpy()), numItermax=10**9) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--batches", type=int, default=200, help="coupled for each seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, started = range(options.seeds), time.process_time()
    print(f"{options.points} test points, {options.steps} steps, {options.seeds} seeds: mean ± standard deviation")
    print("| problem | method | W2 | published | NPE | published |\n|---|---|---|---|---|---|")
    for problem in options.problems:
        source, target = PROBLEMS[problem]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        starts = torch.stack([source(options.points, generator) for generator in generators])
        tests = [target(options.points, generator) for generator in generators]
        floor = w2(tests[0], target(options.points, generators[0]))
        distance = w2(starts[0], tests[0])
        pools: dict[str, Tensor] = {}
        for method in options.methods:
            how, objective = METHODS[method]
            if method == "FM" and source is not normal:
                continue  # its source is Gaussian by definition
            if how not in pools:
                pools[how] = torch.stack([pool(problem, how, options.batches, seed) for seed in seeds])
            ends, energy = sample(train(objective, pools[how], options.steps), starts)
            distances = np.array([w2(end, test) for end, test in zip(ends, tests, strict=True)])
            npe = (energy.numpy() - distance**2).__abs__() / distance**2
            row = f"| {problem} | {method} "
            for place, values in enumerate((distances, npe)):
                known = PUBLISHED.get((problem, method))
                row += f"| {values.mean():.3f} ± {values.std():.3f} | {f'{known[place]:.3f}' if known else ''} "
            print(row + "|", flush=True)
        print(f"| {problem} | floor | {floor:.3f} | | | |", flush=True)
    print(f"{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
