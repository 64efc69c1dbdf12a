"""How fast a pass is against its ingredients, and the time to converge against other libraries.

    python benchmarks/sinkhorn_speed.py [--n 4096 8192] [--rel-eps .1 .03 .01 .003] [--peers pot ott] [--limit 120]

The ingredients are measured in the same run on the same threads: the float32 product X Y^T at that shape and exp2 on a
buffer that stays in cache, one after the other. Peers get the same points, the same eps for the dot-product cost and
the same L1 tolerance of 1e-3 on the marginal; a peer that is not installed or not done within the limit says so.
"""

import argparse
import signal
import time
from collections.abc import Callable

import torch
from fashion import problem

from pipeline.ot import Problem, cost_std, solve_sinkhorn
from pipeline.ot.kernel import DotKernel
from pipeline.ot.sweep import sweep
from pipeline.ot.tiles import Workers

TOL = 1e-3
REPEATS = 5


def best_of(*works: Callable[[], object]) -> list[float]:
    """The least time of each work, taken in turn so that a disturbance hits all alike."""
    least = [float("inf")] * len(works)
    for _ in range(REPEATS):
        for k, work in enumerate(works):
            started = time.perf_counter()
            work()
            least[k] = min(least[k], time.perf_counter() - started)
    return least


def pass_against_ingredients(n: int) -> None:
    x0, x1 = problem(n)
    std = cost_std(x0, x1)
    product = torch.empty(n, n)
    size, repeats = 64 * 1024, n * n // (64 * 1024)
    print(f"\nOne pass at n = m = {n}, d = 64, on {torch.get_num_threads()} threads")
    print("rel_eps | product + exp2 in cache   | pass           | with entropies | with large entries")
    for rel_eps in (0.1, 0.003):
        block = Problem(x0, x1, rel_eps * std)
        gamma = solve_sinkhorn(block)
        kernel = DotKernel(block)
        a = block.weights()[0]
        gamma = kernel.gamma(gamma.g, block.eps)
        bound = kernel.bound(gamma, block.eps)
        # The arguments that a pass meets: one tile's logits below their rows' largest.
        tile = bound.logits(slice(0, size // 1024), bound.empty(size // 1024, n))[:, :1024].contiguous()
        tile -= tile.amax(1, keepdim=True)
        with Workers(a.device) as workers:
            threads = workers.threads

            def exponentials(_: object, tile: torch.Tensor = tile, share: int = repeats // threads) -> None:
                out = torch.empty_like(tile)
                for _ in range(share):
                    torch.exp2(tile, out=out)

            def multiply(threads: int = threads) -> None:
                torch.set_num_threads(threads)
                torch.mm(x0, x1.T, out=product)
                torch.set_num_threads(1)

            times = best_of(
                multiply,
                lambda threads=threads, work=exponentials, workers=workers: list(workers.map(work, range(threads))),
                lambda bound=bound, gamma=gamma, workers=workers, a=a: sweep(bound, gamma, a, workers),
                lambda bound=bound, gamma=gamma, workers=workers, a=a: sweep(bound, gamma, a, workers, entropies=True),
                lambda bound=bound, gamma=gamma, workers=workers, a=a: sweep(bound, gamma, a, workers, keep=64),
            )
        parts = times[0] + times[1]
        row = " | ".join(f"{t:.3f} s {t / parts:4.2f} x" for t in times[2:])
        print(f"{rel_eps:7g} | {times[0]:.3f} + {times[1]:.3f} = {parts:.3f} s | {row}")


def run_pot(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> str:
    """sinkhorn_log on the dense float32 matrix; POT stops on the L2 error, an L1 error spread evenly over sqrt(n)."""
    import ot

    n = len(x0)
    a = torch.full((n,), 1 / n)
    _, log = ot.bregman.sinkhorn_log(a, a, -(x0 @ x1.T), eps, stopThr=TOL / n**0.5, numItermax=100_000, log=True)
    return f"{2 * log['niter']} half-passes"


def run_pot_lazy(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> str:
    """empirical_sinkhorn in batches; its cost is |x - y|^2, which has the same plan at twice the eps."""
    import ot

    *_, log = ot.bregman.empirical_sinkhorn(
        x0, x1, 2 * eps, stopThr=TOL / len(x0) ** 0.5, numIterMax=10_000, isLazy=True, batchSize=512, log=True
    )
    return f"{2 * len(log['err'])} x 10 half-passes at most" if "err" in log else ""


def run_ott(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> str:
    """Momentum on, the dense matrix, jit included."""
    import jax.numpy as jnp
    from ott.geometry import costs, pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, sinkhorn

    cost = costs.Dotp() if hasattr(costs, "Dotp") else costs.SqEuclidean()
    scale = 1.0 if hasattr(costs, "Dotp") else 2.0
    geometry = pointcloud.PointCloud(jnp.asarray(x0.numpy()), jnp.asarray(x1.numpy()), cost, epsilon=scale * eps)
    solver = sinkhorn.Sinkhorn(threshold=TOL, max_iterations=100_000, momentum=acceleration.Momentum(start=100))
    out = solver(linear_problem.LinearProblem(geometry))
    out.f.block_until_ready()
    return f"{2 * int(out.n_iters)} half-passes, converged {bool(out.converged)}"


def run_geomloss(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> str:
    """SamplesLoss with KeOps: an annealed run of fixed length, which does not stop on an error."""
    from geomloss import SamplesLoss

    SamplesLoss("sinkhorn", p=2, blur=eps**0.5, scaling=0.9, debias=False, backend="online", potentials=True)(x0, x1)
    return "no stopping rule"


PEERS = {"pot": run_pot, "pot-lazy": run_pot_lazy, "ott": run_ott, "geomloss": run_geomloss}


def timed(name: str, x0: torch.Tensor, x1: torch.Tensor, eps: float, limit: int) -> str:
    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    started = time.perf_counter()
    try:
        said = PEERS[name](x0, x1, eps)
    except ImportError as error:
        return f"not installed ({error.name})"
    except TimeoutError:
        return f"not done in {limit} s"
    finally:
        signal.alarm(0)
    return f"{time.perf_counter() - started:7.2f} s  {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--rel-eps", type=float, nargs="+", default=[0.1, 0.03, 0.01, 0.003])
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--limit", type=int, default=120, help="seconds given to a peer")
    options = parser.parse_args()
    pass_against_ingredients(8192)
    for n in options.n:
        x0, x1 = problem(n)
        std = cost_std(x0, x1)
        print(f"\nTo an L1 error of {TOL}, n = m = {n}")
        for rel_eps in options.rel_eps:
            report = solve_sinkhorn(Problem(x0, x1, rel_eps * std), tol=TOL).report
            print(f"rel_eps {rel_eps:g}: flowpairs {report.seconds:7.2f} s  {report.passes} passes", flush=True)
            for name in options.peers:
                print(f"    {name:10s} {timed(name, x0, x1, rel_eps * std, options.limit)}", flush=True)


if __name__ == "__main__":
    main()
