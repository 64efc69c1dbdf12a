"""Small epsilons against other libraries at their best settings: annealing, momentum, better starts, multiscale.

    pip install 'flowpairs[bench]'
    python benchmarks/sinkhorn_small_eps.py [--n 4096] [--rel-eps .03 .01 .003] [--patience 15]

As benchmarks/sinkhorn_peers.py, whose peers run with plain settings, on Fashion-MNIST in 64 directions and on eight
Gaussians in the plane. Tried here: ott-jax with momentum and a Gaussian start, subsampled start, a falling epsilon, or
Anderson acceleration (0.6 has no low-rank start any more); POT by warm starts through epsilons that fall by halves, and
its own `sinkhorn_epsilon_scaling`; geomloss' multiscale solver in the plane, where it applies. A setting is judged by
the error that its potential leaves.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import sinkhorn_peers as peers
import torch
from fashion import problem
from sinkhorn_passes import plane

from flowpairs.pipeline.ot import Problem

Solve = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
BLUR = 0.5  # rel_eps where an annealed run begins


def ott_jax(**options: Any) -> Solve:
    """ott-jax with a start (`start`), a falling epsilon (`decay`), and Anderson acceleration (`memory`) or momentum."""

    def solve(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
        import jax.numpy as jnp
        from ott.geometry import costs, epsilon_scheduler, pointcloud
        from ott.initializers.linear import initializers
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import acceleration, sinkhorn

        given, level = dict(options), eps
        if decay := given.pop("decay", None):
            first = max(1.0, BLUR * Problem(x0, x1, 1.0).at(1.0).eps / eps)
            level = epsilon_scheduler.Epsilon(target=eps, init=first, decay=decay)
        start = {"gaussian": initializers.GaussianInitializer, "subsample": initializers.SubsampleInitializer}
        if name := given.pop("start", None):
            given["initializer"] = start[name](*([len(x0) // 8] * 2 if name == "subsample" else []))
        if depth := given.pop("memory", None):
            given["anderson"] = acceleration.AndersonAcceleration(memory=depth, refresh_every=1)
        else:
            given["momentum"] = acceleration.Momentum(start=100)
        points = (jnp.asarray(x.numpy()) for x in (x0, x1))
        geometry = pointcloud.PointCloud(*points, costs.NegDotProduct(), epsilon=level)
        solver = sinkhorn.Sinkhorn(threshold=peers.TOL, max_iterations=100_000, **given)
        return torch.tensor(solver(linear_problem.LinearProblem(geometry)).g.tolist())

    return solve


def pot_annealed(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """POT's sinkhorn_log from warm starts, at epsilons that fall by halves, each to a tenth but the last."""
    import ot

    a, cost, level = torch.full((len(x0),), 1 / len(x0)), -(x0 @ x1.T), eps
    levels = [eps]
    while (level := 2 * level) < BLUR * Problem(x0, x1, 1.0).at(1.0).eps:
        levels.insert(0, level)
    f, g = torch.zeros(len(x0)), torch.zeros(len(x1))
    for level in levels:
        error = peers.TOL if level == eps else 0.1
        options = {"stopThr": error / len(x0) ** 0.5, "numItermax": 100_000, "log": True, "warn": False}
        _, log = ot.bregman.sinkhorn_log(a, a, cost, level, warmstart=(f / level, g / level), **options)
        f, g = level * log["log_u"], level * log["log_v"]
    return g


def pot_scaling(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """POT's own epsilon scaling, in float64, on numpy arrays."""
    import ot

    a, cost = torch.full((len(x0),), 1 / len(x0)).double().numpy(), -(x0 @ x1.T).double().numpy()
    options = {"stopThr": peers.TOL / len(x0) ** 0.5, "numItermax": 1000, "numInnerItermax": 1000, "log": True}
    _, log = ot.bregman.sinkhorn_epsilon_scaling(a, a, cost - cost.min(), eps, **options)
    return torch.from_numpy(log["beta"]).float()


def geomloss_multiscale(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """geomloss' multiscale solver: coarse to fine, with truncation."""
    from geomloss import SamplesLoss

    options = {"blur": eps**0.5, "scaling": 0.9, "debias": False, "backend": "multiscale", "potentials": True}
    _, g = SamplesLoss("sinkhorn", p=2, **options)(x0, x1)
    return g.flatten() - x1.square().sum(1) / 2


SETTINGS: dict[str, Solve] = {
    "ott-jax, momentum": ott_jax(),
    "ott-jax, momentum, Gaussian start": ott_jax(start="gaussian"),
    "ott-jax, momentum, subsampled start": ott_jax(start="subsample"),
    "ott-jax, momentum, falling eps .95": ott_jax(decay=0.95),
    "ott-jax, Gaussian start, falling eps .95": ott_jax(start="gaussian", decay=0.95),
    "ott-jax, Anderson 5, Gaussian start": ott_jax(start="gaussian", memory=5),
    "POT, falling eps by warm starts": pot_annealed,
    "POT, sinkhorn_epsilon_scaling": pot_scaling,
    "geomloss, multiscale": geomloss_multiscale,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.03, 0.01, 0.003])
    parser.add_argument("--patience", type=float, default=15.0)
    parser.add_argument("--data", nargs="+", choices=["fashion", "plane"], default=["fashion", "plane"])
    options = parser.parse_args()
    for data in options.data:
        make = {"fashion": problem, "plane": plane}[data]
        settings = {name: solve for name, solve in SETTINGS.items() if data == "plane" or solve != geomloss_multiscale}
        peers.PEERS.clear()
        peers.PEERS.update({"flowpairs": peers.ours, **settings})
        for name in peers.PEERS:  # imports and compilers run before anything is timed
            peers.attempt(name, *make(1024), 10.0, 120)
        x0, x1 = make(options.n)
        left = dict.fromkeys(settings, True)
        for rel_eps in sorted(options.rel_eps, reverse=True):
            eps = Problem(x0, x1, 1.0).at(rel_eps).eps
            own = peers.attempt("flowpairs", x0, x1, eps, 600)
            assert not isinstance(own, str)
            print(f"{data}, n = {options.n}, rel_eps {rel_eps:g}: flowpairs {own[0]:.2f} s, error {own[1]:.1e}")
            for name in [name for name in settings if left[name]]:
                limit = max(20, math.ceil(options.patience * own[0]))
                found = peers.attempt(name, x0, x1, eps, limit)
                if isinstance(found, str):
                    left[name] = False
                    print(f"    {name:42s} {found}", flush=True)
                else:
                    print(f"    {name:42s} {found[0] / own[0]:6.1f} x, error {found[1]:.1e}", flush=True)


if __name__ == "__main__":
    main()
