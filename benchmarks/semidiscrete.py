"""Seconds and source points that a semi-discrete potential takes, against ott-jax's and POT's solvers, in one run.

    pip install 'flowpairs[bench]'
    python benchmarks/semidiscrete.py [--data fashion cifar] [--rel-eps 0 .01] [--patience 12]

Data: Fashion-MNIST, 8,000, and CIFAR-10, 3,000 and their mirror images, in 64 principal directions; the source is
standard Gaussian, the cost the dot product (for ott-jax and POT half of |x - y|^2, whose norms only move the
potential). Everybody stops at a chi-square of 0.05 of their own, and the potential that comes out is judged by fresh
points. ott-jax runs as its tutorial does, and with a batch and a falling learning rate that suit these data better; POT
is its averaged gradient with falling entropy. A peer is stopped after `--patience` times our seconds.
"""

import argparse
import contextlib
import importlib
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion import DATA, problem

from flowpairs.pipeline.blocks import features, noise
from flowpairs.pipeline.blocks.directions import RowSample, fit_features
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.ot.semidiscrete.solver import semidiscrete_cost_std, solve_semidiscrete
from flowpairs.pipeline.ot.semidiscrete.targets import Targets

CHI2 = 0.05
JUDGES = 500_000  # fresh points


class Noise:
    """Gaussian points by counter."""

    dim = 64

    def points(self, first: int, count: int) -> torch.Tensor:
        return torch.from_numpy(noise.gaussian(0, first, count, 64, noise.Stream.SOLVE))


def fashion() -> torch.Tensor:
    """Fashion-MNIST."""
    return problem(8000)[1]


def cifar() -> torch.Tensor:
    """CIFAR-10 with mirror images."""
    images = np.load(Path(DATA) / "cifar10_png" / "train3000.npz")["images"].transpose(0, 3, 1, 2)
    rows = Rows.of(np.ascontiguousarray(images))
    fitted = fit_features([RowSample(rows, np.arange(len(rows)), flips=True)], 64)
    return torch.from_numpy(features.compute_features(fitted, rows, flips=True).whole())


def judged(y: torch.Tensor, g: torch.Tensor, eps: float) -> float:
    """The unbiased chi-square on fresh points."""
    total, squares = torch.zeros(len(y), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)
    centred = y - y.mean(0)
    for first in range(0, JUDGES, 1000):
        scores = torch.from_numpy(noise.gaussian(1, first, 1000, 64)) @ centred.T + g.float()
        if eps == 0:
            hits = torch.bincount(scores.argmax(1), minlength=len(y)).double()
            total, squares = total + hits, squares + hits
        else:
            p = ((scores - scores.amax(1, keepdim=True)) / (eps * math.log(2))).exp2_()
            p /= p.sum(1, keepdim=True)
            total, squares = total + p.sum(0), squares + p.square().sum(0)
    return (len(y) * (total.square() - squares).sum() / (JUDGES * (JUDGES - 1)) - 1).item()


def ours(y: torch.Tensor, eps: float) -> tuple[torch.Tensor, int]:
    """flowpairs."""
    solved = solve_semidiscrete(Targets(y), Noise(), eps, chi2=CHI2)
    assert solved.report.converged
    return solved.g, solved.report.points


def ott_jax(y: torch.Tensor, eps: float, batch: int, rate: Callable | float, steps: int, every: int) -> tuple:
    """ott-jax; it stops on its own chi-square, through `errors` of its state."""
    import jax
    import jax.numpy as jnp
    import optax
    from ott.geometry import costs
    from ott.geometry.semidiscrete_pointcloud import SemidiscretePointCloud
    from ott.problems.linear.semidiscrete_linear_problem import SemidiscreteLinearProblem
    from ott.solvers.linear.semidiscrete import SemidiscreteSolver

    centred = jnp.asarray((y - y.mean(0)).numpy())
    geometry = SemidiscretePointCloud(jax.random.normal, centred, epsilon=eps, cost_fn=costs.NegDotProduct())
    solver = SemidiscreteSolver(
        num_iterations=steps, batch_size=batch, optimizer=optax.sgd(rate), error_eval_every=every, threshold=CHI2
    )
    out = jax.jit(solver)(jax.random.key(0), SemidiscreteLinearProblem(geometry))
    errors = np.asarray(out.errors)
    errors = errors[np.isfinite(errors)]
    return torch.tensor(np.asarray(out.g)), len(errors) * every * batch


def tutorial(y: torch.Tensor, eps: float) -> tuple[torch.Tensor, int]:
    """ott-jax with its tutorial's settings."""
    return ott_jax(y, eps, 128, 0.02, 40_000, 5000)


def tuned(y: torch.Tensor, eps: float) -> tuple[torch.Tensor, int]:
    """ott-jax with settings searched for these data: batch 512, learning rate 100 falling to 0.5."""
    import optax

    return ott_jax(y, eps, 512, optax.exponential_decay(100.0, 2000, 0.005), 2000, 250)


def drag(y: torch.Tensor, eps: float) -> tuple[torch.Tensor, int]:
    """POT's averaged gradient, which has no test to stop by: a million points, as many as ott-jax takes."""
    import ot

    def cost(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return -x @ z.T

    def sample(k: int) -> torch.Tensor:
        return torch.randn(k, 64)

    centred = y - y.mean(0)
    g = ot.semidiscrete.solve_semidiscrete(centred, sample, metric=cost, reg=eps, max_iter=2000, batch_size=512)
    return g, 2000 * 512


PEERS = {"ott-jax, tutorial": tutorial, "ott-jax, tuned": tuned, "POT, DRAG": drag}


def child(way: Callable, connection: Any, y: torch.Tensor, eps: float) -> None:
    """One way in a process of its own: imports first, then, when told so, the solve."""
    for name in ("jax", "ott", "optax", "ot"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    connection.send("ready")
    connection.recv()
    try:
        g, points = way(y, eps)
        connection.send((g.numpy(), points))
    except ImportError as error:
        connection.send(f"not installed ({error.name})")


def attempt(way: Callable, y: torch.Tensor, eps: float, limit: float | None = None) -> tuple[float, int, float] | str:
    """Seconds, points and the chi-square on fresh points, or why there are none."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=child, args=(way, there, y, eps))
    process.start()
    here.recv()
    started = time.perf_counter()
    here.send("go")
    found = here.recv() if here.poll(limit) else f"stopped after {limit:.0f} s"
    seconds = time.perf_counter() - started
    process.kill()
    process.join()
    return found if isinstance(found, str) else (seconds, found[1], judged(y, torch.from_numpy(found[0]), eps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["fashion", "cifar"], choices=["fashion", "cifar"])
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.0, 0.01])
    parser.add_argument("--patience", type=float, default=12.0)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    options = parser.parse_args()
    for name in options.data:
        y = {"fashion": fashion, "cifar": cifar}[name]()
        std = semidiscrete_cost_std(Targets(y), Noise())
        for rel_eps in options.rel_eps:
            print(f"\n{name}, N = {len(y):,}, rel_eps {rel_eps:g}, {torch.get_num_threads()} threads", flush=True)
            found = attempt(ours, y, rel_eps * std)
            assert not isinstance(found, str)
            limit = options.patience * found[0]
            print(f"    {'flowpairs':18s} {found[0]:.1f} s, {found[1]:,} points, chi2 {found[2]:.4f}", flush=True)
            for peer in options.peers:
                theirs = attempt(PEERS[peer], y, rel_eps * std, limit)
                if isinstance(theirs, str):
                    print(f"    {peer:18s} {theirs} ({options.patience:g} x)", flush=True)
                    continue
                ratio = theirs[0] / found[0]
                said = f"{theirs[0]:.1f} s = {ratio:.1f} x, {theirs[1]:,} points, chi2 {theirs[2]:.4f}"
                print(f"    {peer:18s} {said}", flush=True)


if __name__ == "__main__":
    main()
