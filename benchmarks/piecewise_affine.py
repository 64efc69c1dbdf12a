"""A known map in d = 32 and 64: curvature and reconstruction as the couplings grow and as epsilon falls.

    python benchmarks/piecewise_affine.py [--d 32 64] [--n 256 ... 65536] [--rel-eps 0.3 ... 0.01] [--seeds 5]

After arXiv 2506.05526: noise x0 ~ N(0, I) and data T0(x0'), T0 the gradient of the convex

    u(x) = max_i |x|^2 / 2 + |A_i (x - m_i)|^2 / 2 - |A_i m_i|^2,    i = 1 ... d / 16,

A_i of Wishart(d / 2, I), m_i of N(0, 3 I), centred. By Brenier's theorem T0 is the optimal map, so the truth is known.
The A_i are divided by d here, without which the map stretches by thousands: half their eigenvalues are 0, the others
up to 3, in any dimension. Each seed is a map, a pool of 65,536 pairs and a network of its own. The pool is coupled in
blocks of n by the Sinkhorn solver at rel_eps; nothing but these two differs between rows.

An MLP of 3 x 128 SELU regresses on the pairs (the code of benchmarks/toy2d.py, training's objective), with an equal
number of steps; the flow is sampled in 32 steps of Heun from 1,024 fresh noises. All figures but E are shares of the
data's variance E |T0(x) - E T0|^2, which differs between maps:

    pairs            E |x1 - T0(x0)|^2 of the drawn pairs themselves: what the network is asked for
    reconstruction   E |T(x0) - T0(x0)|^2, T the end of the flow
    curvature        E int |v(t, x_t) - (x_1 - x_0)|^2 dt along the flow

Five seeds to n = 16,384 take about 25 minutes of one core, 65,536 three to five minutes a seed.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from toy2d import BATCH, train

from flowpairs.pipeline.ot import Problem, solve_sinkhorn
from flowpairs.training.objectives.objective import Objective
from flowpairs.training.objectives.probability_paths import Straight
from flowpairs.training.sampling.curvature import curvature_by_time, integrate_unit_interval
from flowpairs.training.sampling.ode import solve_fixed

POOL, TESTS, HEUN = 65_536, 1_024, 32
WIDTH = 128
FIGURES = ("pairs", "reconstruction", "curvature")


class Map:
    """T0 in dimension d: the gradient of the largest piece."""

    def __init__(self, d: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(d // 16, d, d // 2, generator=generator)
        self.a = root @ root.mT / d
        m = 3**0.5 * torch.randn(d // 16, d, generator=generator)
        self.m = m - m.mean(0)

    def __call__(self, x: Tensor) -> Tensor:
        moved = torch.einsum("ipq,niq->nip", self.a, x[:, None] - self.m)  # A_i (x - m_i)
        level = torch.einsum("ipq,iq->ip", self.a, self.m).square().sum(1)
        which = (moved.square().sum(2) / 2 - level).argmax(1)
        return x + torch.einsum("npq,nq->np", self.a[which], moved[torch.arange(len(x)), which])


def pool(to: Map, d: int, n: int, rel_eps: float, seed: int) -> tuple[Tensor, dict[str, float]]:
    """Coupled pairs [batches, BATCH, 2, d] in random order, and what they are."""
    generator = torch.Generator().manual_seed(1000 + seed)
    x0, x1 = torch.randn(POOL, d, generator=generator), to(torch.randn(POOL, d, generator=generator))
    parts, levels = [], []
    for start, end in zip(x0.split(n), x1.split(n), strict=True):
        coupling = solve_sinkhorn(Problem(start, end, 0.0).at(rel_eps))
        assert coupling.report.converged
        levels.append(coupling.report.sharpness)
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        parts.append(torch.stack([start, end[coupling.draw(u)]], 1))
    pairs = torch.cat(parts)
    far = (pairs[:, 1] - to(pairs[:, 0])).square().mean().item()
    pairs = pairs[torch.randperm(POOL, generator=generator)]
    made = {"E": float(np.mean(levels)), "pairs": far, "variance": x1.var(0).mean().item()}
    return pairs.view(-1, BATCH, 2, d), made


def measured(d: int, n: int, rel_eps: float, seeds: int, steps: int) -> list[dict[str, float]]:
    """A row a seed."""
    maps = [Map(d, seed) for seed in range(seeds)]
    pools, rows = zip(*(pool(to, d, n, rel_eps, seed) for seed, to in enumerate(maps)), strict=True)
    networks = train(Objective(0, Straight()), torch.stack(pools), steps, WIDTH)
    tests = torch.randn(seeds, TESTS, d, generator=torch.Generator().manual_seed(2000))
    ends = solve_fixed(networks, tests.flatten(0, 1), "heun", HEUN).end.view_as(tests)
    for seed, (row, to) in enumerate(zip(rows, maps, strict=True)):
        row["reconstruction"] = (ends[seed] - to(tests[seed])).square().mean().item()
        row["curvature"] = curvature(networks, tests, seed)
    return list(rows)


def curvature(networks: Any, tests: Tensor, seed: int) -> float:
    """Of one seed's network, per coordinate."""

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        every = tests.clone()
        every[seed] = x
        return networks(t.repeat(len(tests)), every.flatten(0, 1)).view_as(tests)[seed]

    return integrate_unit_interval(curvature_by_time(velocity, tests[seed], HEUN)) / tests[seed].numel()


def line(rows: list[dict[str, Any]]) -> None:
    """Mean and standard deviation over the seeds of one case."""
    columns = [[row["E"] for row in rows], *([row[name] / row["variance"] for row in rows] for name in FIGURES)]
    cells = " | ".join(f"{np.mean(values):.3g} ± {np.std(values):.2g}" for values in columns)
    print(f"| {rows[0]['d']} | {rows[0]['n']:,} | {rows[0]['rel_eps']} | {len(rows)} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--n", type=int, nargs="*", default=[256, 1024, 4096, 16_384, 65_536])
    parser.add_argument("--rel-eps", type=float, nargs="*", default=[0.3, 0.1, 0.03, 0.01])
    parser.add_argument("--fixed-rel-eps", type=float, default=0.03, help="while n grows")
    parser.add_argument("--fixed-n", type=int, default=4096, help="while epsilon falls")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--read", type=Path, nargs="+", help="print what was written before, and compute nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    run = partial(measured, seeds=options.seeds, steps=options.steps)
    cases = [(d, n, options.fixed_rel_eps) for d in options.d for n in sorted(options.n)]
    cases += [(d, options.fixed_n, eps) for d in options.d for eps in options.rel_eps if eps != options.fixed_rel_eps]
    print("| d | n | rel_eps | seeds | E | pairs | reconstruction | curvature |\n|---|---|---|---|---|---|---|---|")
    if options.read:
        found = [row for path in options.read for row in json.loads(path.read_text())]
        for case in sorted({(row["d"], row["n"], -row["rel_eps"]) for row in found}):
            line([row for row in found if (row["d"], row["n"], -row["rel_eps"]) == case])
        return
    for d, n, rel_eps in cases:
        rows = [{"d": d, "n": n, "rel_eps": rel_eps, **row} for row in run(d, n, rel_eps)]
        line(rows)
        found += rows
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
