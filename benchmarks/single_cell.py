"""Embryoid bodies with one day left out: W1 of the cells predicted for it, over seeds, beside arXiv 2302.00482's.

    python benchmarks/single_cell.py [--steps 3000] [--seeds 5] [--width 64]

Cells at five times, 550 a time, in five standardised principal components: eb_embryoid/eb_2750.npz in the directory of
benchmarks/fashion.py. For t = 1, 2, 3 the cells at t are left out, those at t - 1 and t + 1 are coupled and regressed
on, and the cells at t - 1 are sent half of the way; W1 is between where they come to and the cells at t, by POT.

    previous     the cells at t - 1 as they are
    midpoints    (x0 + x1) / 2 of coupled cells, without a network: of the exact coupling, of independent ones, and of
                 a half and a quarter of the cells at each time, which shows what W1 owes to their number
    floor        half of the cells at t against the other half

The paper trains one network on all the times that are left, on the full data; the mean over its three times is what it
publishes. Its sigma is 0.1 for CFM and [SF]2M, and 1 for SB-CFM. Paths and objectives are training's, couplings
flowpairs.pipeline.ot's, networks and steps those of benchmarks/toy2d.py: 3 x 64 SELU, AdamW at 1e-3, batches of 256; 50
Euler steps, with noise for the SDE. All seeds train at once. About ten minutes of one core.
"""

import argparse
import time

import numpy as np
import ot
import torch
from fashion import DATA
from torch import Tensor
from toy2d import BATCH, Networks, train

from flowpairs.pipeline.ot import Coupling, Problem, independent, solve_exact, solve_sinkhorn
from flowpairs.training.objectives.objective import BridgeMatching, Objective
from flowpairs.training.objectives.probability_paths import Bridge, Straight

STEPS = 50  # of Euler, from 0 to 1/2
METHODS: dict[str, tuple[str, Objective]] = {  # how cells are coupled, and what is regressed on
    "I-CFM": ("independent", Objective(0, Straight(0.1))),
    "OT-CFM": ("exact", Objective(0, Straight(0.1))),
    "SB-CFM": ("entropic", Objective(0, Bridge(1.0))),
    "[SF]2M-exact": ("exact", BridgeMatching(0, Bridge(0.1))),
    "[SF]2M": ("entropic", BridgeMatching(0, Bridge(0.1))),
}
PUBLISHED = {"I-CFM": 0.872, "OT-CFM": 0.790, "SB-CFM": 1.221, "[SF]2M-exact": 0.793}


def cells() -> list[Tensor]:
    """The cells of every time [550, 5]."""
    arrays = np.load(DATA / "eb_embryoid" / "eb_2750.npz")
    x, times = torch.from_numpy(arrays["X"][:, :5]).double(), torch.from_numpy(arrays["ts"])
    x = ((x - x.mean(0)) / x.std(0, correction=0)).float()
    return [x[times == t] for t in range(5)]


def coupled(x0: Tensor, x1: Tensor, how: str, sigma: float) -> Coupling:
    """Entropic couplings at the epsilon of bridges of diffusion sigma."""
    problem = Problem(x0, x1, 2 * sigma**2, cost="sqeuclidean")
    coupling = {"exact": solve_exact, "independent": independent, "entropic": solve_sinkhorn}[how](problem)
    assert coupling.report.converged
    return coupling


def pairs(x0: Tensor, x1: Tensor, coupling: Coupling, batches: int, seed: int) -> Tensor:
    """Batches [batches, BATCH, 2, 5] of cells with partners drawn anew each time a cell occurs."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    while sum(map(len, parts)) < batches * BATCH:
        u = torch.rand(len(x0), generator=generator, dtype=torch.float64)
        parts.append(torch.stack([x0, x1[coupling.draw(u)]], 1))
    drawn = torch.cat(parts)
    return drawn[torch.randperm(len(drawn), generator=generator)[: batches * BATCH]].view(batches, BATCH, 2, -1)


@torch.no_grad()
def half_way(networks: Networks, x: Tensor, sigma: float) -> Tensor:
    """Where the cells x [n, d] are at t = 1/2, by every seed's network: [seeds, n, d]; sigma 0 is the ODE."""
    generator = torch.Generator().manual_seed(0)
    states, h = x.repeat(networks.seeds, 1), 0.5 / STEPS
    for step in range(STEPS):
        out = networks(torch.full((len(states),), step * h), states)
        velocity, excess = (out, 0.0) if networks.heads == 1 else (out[0], out[1] if sigma else 0.0)
        states = states + h * (velocity + excess)
        if sigma:
            states += sigma * h**0.5 * torch.randn(states.shape, generator=generator)
    return states.view(networks.seeds, *x.shape)


def w1(x: Tensor, y: Tensor) -> float:
    """Exact 1-Wasserstein distance of two samples, Euclidean."""
    return float(ot.emd2([], [], ot.dist(x.double().numpy(), y.double().numpy(), metric="euclidean")))


def static(x: list[Tensor], t: int, how: str, seed: int) -> float:
    """Of the midpoints of one drawing of pairs."""
    coupling = coupled(x[t - 1], x[t + 1], how, 1.0)
    u = torch.rand(len(x[t - 1]), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return w1((x[t - 1] + x[t + 1][coupling.draw(u)]) / 2, x[t])


def some(x: Tensor, part: int, seed: int) -> Tensor:
    """A random half, quarter, ... of the cells."""
    return shuffled(x, seed)[: len(x) // part]


def halves(x: Tensor, seed: int) -> float:
    one, other = shuffled(x, seed).chunk(2)
    return w1(one, other)


def shuffled(x: Tensor, seed: int) -> Tensor:
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]


def row(name: str, found: np.ndarray, published: float | None = None) -> None:
    """found [seeds, times]: a column a time, and the mean over the times."""
    columns = [*found.T, found.mean(1)]
    figures = " | ".join(f"{values.mean():.3f} ± {values.std():.3f}" for values in columns)
    print(f"| {name} | {figures} | {published or ''} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batches", type=int, default=200, help="drawn for each seed")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, seeds, times, began = cells(), range(options.seeds), (1, 2, 3), time.process_time()
    print("| method | W1, t = 1 | t = 2 | t = 3 | mean | published |\n|---|---|---|---|---|---|")
    row("floor", np.array([[halves(x[t], seed) for t in times] for seed in seeds]))
    row("previous", np.array([[w1(x[t - 1], x[t]) for t in times]]))
    row("independent midpoint", np.array([[static(x, t, "independent", seed) for t in times] for seed in seeds]))
    row("OT midpoint", np.array([[static(x, t, "exact", seed) for t in times] for seed in seeds]))
    for name, part in (("half", 2), ("a quarter", 4)):
        fewer = [[some(cells, part, seed) for cells in x] for seed in seeds]
        found = np.array([[static(fewer[seed], t, "exact", seed) for t in times] for seed in seeds])
        row(f"OT midpoint, {name} of the cells", found)
    for name in options.methods:
        how, objective = METHODS[name]
        sigma, sde = objective.path.sigma, isinstance(objective, BridgeMatching)
        found: dict[str, list[list[float]]] = {", ODE" if sde else "": []} | ({", SDE": []} if sde else {})
        for t in times:
            coupling = coupled(x[t - 1], x[t + 1], how, sigma)
            drawn = [pairs(x[t - 1], x[t + 1], coupling, options.batches, seed) for seed in seeds]
            networks = train(objective, torch.stack(drawn), options.steps, options.width)
            for sampled, values in found.items():
                ends = half_way(networks, x[t - 1], sigma if sampled == ", SDE" else 0.0)
                values.append([w1(end, x[t]) for end in ends])
        for sampled, values in found.items():
            row(name + sampled, np.array(values).T, PUBLISHED.get(name))
    print(f"{time.process_time() - began:.0f} s of CPU time")


if __name__ == "__main__":
    main()
