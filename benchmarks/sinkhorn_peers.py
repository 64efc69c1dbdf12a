"""Time to converge against other libraries, over epsilon and over n; one run makes the table and the figure.

    pip install 'flowpairs[bench]'
    python benchmarks/sinkhorn_peers.py [--n 4096 8192 16384] [--rel-eps .1 .03 .01 .003] [--figure peers.png]

Everybody gets the same points, the same eps for the dot-product cost (twice it where the cost is |x - y|^2, once where
it is half of that: the same plan), float32, the same threads, and an L1 tolerance of 1e-3 on the target marginal. A
peer is stopped after `--patience` times the seconds of flowpairs (20 at the least) and then not tried at smaller
epsilons, which take it longer. The error that a peer reached is measured by one pass over its own potential.
"""

import argparse
import json
import math
import signal
import time
from pathlib import Path

import torch
from fashion import problem

from flowpairs.pipeline.ot import Problem, solve_sinkhorn
from flowpairs.pipeline.ot.sinkhorn.sweep import sweep
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers

TOL = 1e-3


def ours(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """flowpairs."""
    return solve_sinkhorn(Problem(x0, x1, eps), tol=TOL).g


def ott_jax(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """ott-jax, momentum from iteration 100 on, its dense matrix, compilation included; its error is the L1 one."""
    import jax.numpy as jnp
    from ott.geometry import costs, pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, sinkhorn

    geometry = pointcloud.PointCloud(
        jnp.asarray(x0.numpy()), jnp.asarray(x1.numpy()), costs.NegDotProduct(), epsilon=eps
    )
    solver = sinkhorn.Sinkhorn(threshold=TOL, max_iterations=100_000, momentum=acceleration.Momentum(start=100))
    out = solver(linear_problem.LinearProblem(geometry))
    return torch.tensor(out.g.tolist())


def pot(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """POT sinkhorn_log on the dense matrix; it stops on the L2 error, of an even L1 error 1 / sqrt(n)."""
    import ot

    a = torch.full((len(x0),), 1 / len(x0))
    options = {"stopThr": TOL / len(x0) ** 0.5, "numItermax": 100_000, "log": True, "warn": False}
    _, log = ot.bregman.sinkhorn_log(a, a, -(x0 @ x1.T), eps, **options)
    return eps * log["log_v"]


def pot_lazy(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """POT empirical_sinkhorn in batches, never the matrix; the cost is |x - y|^2."""
    import ot

    options = {"stopThr": TOL / len(x0) ** 0.5, "numIterMax": 100_000, "isLazy": True, "batchSize": 512, "log": True}
    _, _, log = ot.bregman.empirical_sinkhorn(x0, x1, 2 * eps, **options)
    return (log["v"] - x1.square().sum(1)) / 2


def geomloss(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """geomloss over KeOps, cost half of |x - y|^2: an annealed run of fixed length, which stops on no error."""
    from geomloss import SamplesLoss

    options = {"blur": eps**0.5, "scaling": 0.9, "debias": False, "backend": "online", "potentials": True}
    _, g = SamplesLoss("sinkhorn", p=2, **options)(x0, x1)
    return g.flatten() - x1.square().sum(1) / 2


def flash(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """flash-sinkhorn's Triton kernel without TensorFloat-32, on CUDA, to an L1 error that its own steps tell."""
    if not torch.cuda.is_available():
        raise ImportError(name="CUDA, for flash-sinkhorn")
    from flash_sinkhorn.kernels.sinkhorn_flashstyle_sqeuclid import flashsinkhorn_lse

    def softmin(x: torch.Tensor, y: torch.Tensor, potential: torch.Tensor) -> torch.Tensor:
        bias = potential / eps - math.log(len(y))
        return flashsinkhorn_lse(x, y, bias, eps, cost_scale=0.5, allow_tf32=False, autotune=False)

    x0, x1 = x0.cuda(), x1.cuda()
    g, error = torch.zeros_like(x1[:, 0]), math.inf
    while error > TOL:
        new = softmin(x1, x0, softmin(x0, x1, g))
        error = (((g - new) / eps).exp() - 1).abs().mean().item()
        g = new
    return g.cpu()


PEERS = {"ott-jax": ott_jax, "POT": pot, "POT lazy": pot_lazy, "geomloss + KeOps": geomloss, "flash-sinkhorn": flash}


def error_of(x0: torch.Tensor, x1: torch.Tensor, eps: float, g: torch.Tensor) -> float:
    """The L1 error of the target marginal that a potential leaves."""
    block = Problem(x0, x1, eps)
    kernel = kernel_of(block)
    gamma = kernel.gamma(g, eps)
    a, b = block.weights()
    with Workers(a.device) as workers:
        swept = sweep(kernel.bound(gamma, eps), gamma, a, RowPartition(len(a), len(b), a.device), workers)
    return (swept.columns - b).abs().sum().item()


def attempt(name: str, x0: torch.Tensor, x1: torch.Tensor, eps: float, limit: int) -> tuple[float, float] | str:
    """Seconds and the error reached, or why there are none."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    started = time.perf_counter()
    try:
        g = PEERS[name](x0, x1, eps)
        seconds = time.perf_counter() - started
    except ImportError as error:
        return f"not installed ({error.name})"
    except TimeoutError:
        return f"not done in {limit} s"
    finally:
        signal.alarm(0)
    return seconds, error_of(x0, x1, eps, g)


def run(sizes: list[int], levels: list[float], patience: float) -> list[dict]:
    """One row for every library, n and eps that was tried."""
    rows = []
    warm_x0, warm_x1 = problem(1024)
    for name in PEERS:  # imports and KeOps' compilers run before anything is timed
        attempt(name, warm_x0, warm_x1, 10.0, 120)
    for n in sizes:
        x0, x1 = problem(n)
        print(f"\nn = m = {n}, d = 64, L1 target {TOL:g}, {torch.get_num_threads()} threads", flush=True)
        left = dict.fromkeys(PEERS, True)
        for rel_eps in levels:
            block = Problem(x0, x1, 1.0).at(rel_eps)
            started = time.perf_counter()
            g = ours(x0, x1, block.eps)
            seconds = time.perf_counter() - started
            rows.append({"name": "flowpairs", "n": n, "rel_eps": rel_eps, "seconds": seconds})
            print(f"rel_eps {rel_eps:g}: flowpairs {seconds:.2f} s, error {error_of(x0, x1, block.eps, g):.1e}")
            for name in [name for name in PEERS if left[name]]:
                limit = max(20, math.ceil(patience * seconds))
                found = attempt(name, x0, x1, block.eps, limit)
                if isinstance(found, str):
                    left[name] = False
                    rows.append({"name": name, "n": n, "rel_eps": rel_eps, "stopped": limit})
                    print(f"    {name:16s} {found}", flush=True)
                    continue
                reached = found[1] < 2 * TOL
                rows.append({"name": name, "n": n, "rel_eps": rel_eps, "seconds" if reached else "stopped": found[0]})
                print(f"    {name:16s} {found[0]:.2f} s = {found[0] / seconds:.1f} x, error {found[1]:.1e}", flush=True)
    return rows


def draw(rows: list[dict], path: Path) -> None:
    """Seconds against eps at the smallest n and against n at two eps.

    A triangle stands where a peer was stopped, or stopped itself at a larger error.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sizes, levels = sorted({r["n"] for r in rows}), sorted({r["rel_eps"] for r in rows}, reverse=True)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    panels = [("rel_eps", "n", sizes[0]), ("n", "rel_eps", levels[0]), ("n", "rel_eps", levels[1])]
    names = ["flowpairs", *PEERS]
    for axis, (x, fixed, value) in zip(axes, panels, strict=True):
        for k, name in enumerate(names):
            found = [r for r in rows if r["name"] == name and r[fixed] == value]
            points = sorted((r[x], r["seconds"]) for r in found if "seconds" in r)
            for r in found:
                if "stopped" in r:
                    axis.plot(r[x], r["stopped"], "^", color=f"C{k}", markerfacecolor="none", markersize=7 + 3 * k)
            if points or found:
                width = 2.4 if name == "flowpairs" else 1.2
                line = zip(*points, strict=True) if points else ([], [])
                axis.plot(*line, "o-", color=f"C{k}", label=name, linewidth=width, markersize=4)
        axis.set(xscale="log", yscale="log", title=f"{fixed} = {value:,}" if fixed == "n" else f"{fixed} = {value:g}")
        axis.set_xlabel("rel_eps (sharper to the right)" if x == "rel_eps" else "n")
        ticks = levels if x == "rel_eps" else sizes
        axis.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        if x == "rel_eps":
            axis.invert_xaxis()
    axes[0].margins(y=0.12)
    axes[0].set_ylabel("seconds to an L1 error of 1e-3\n(triangle: stopped there)")
    handles = {h.get_label(): h for axis in axes for h in axis.get_lines() if h.get_label() in names}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.1, 0.03, 0.01, 0.003])
    parser.add_argument("--patience", type=float, default=15.0)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--figure", type=Path, help="draw them here")
    options = parser.parse_args()
    rows = run(options.n, sorted(options.rel_eps, reverse=True), options.patience)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
