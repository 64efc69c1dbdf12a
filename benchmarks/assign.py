"""Assignment at eps = 0 and above against the matrix product alone, of the same shape and type, in one run.

    python benchmarks/assign.py [--data 8000 65536] [--points 8192] [--threads 1]

Data are Fashion-MNIST's in 64 principal directions (blended copies beyond 10,000), the potential is that of a solve; a
product is timed twice: as one call for the whole shape, into memory that is there, and tile by tile into one buffer
that stays in cache. Where faiss is installed, its inverted file is tried as well: share of the points that find their
partner, and time, over the number of lists that are searched.

    python benchmarks/assign.py --against-index 1000000 [--points 4096] [--threads 2]

compares with faiss' exact index over made data of 64 dimensions at the potential of two Gaussians: seconds of both by
turns, and the partners of the index that float64 finds not to be the best.
"""

import argparse
import contextlib
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from fashion import problem

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.ot.semidiscrete.assign import Assignment
from flowpairs.pipeline.ot.semidiscrete.search import ROWS, TILE
from flowpairs.pipeline.ot.semidiscrete.solver import semidiscrete_cost_std, solve_semidiscrete
from flowpairs.pipeline.ot.semidiscrete.targets import Targets

ROUNDS = 7


class Noise:
    """Gaussian points by counter."""

    def points(self, first: int, count: int) -> torch.Tensor:
        return torch.from_numpy(noise.gaussian(0, first, count, 64, noise.Stream.SOLVE))


def seconds(work: Callable[..., object], *arguments: torch.Tensor) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def product(x: torch.Tensor, y: torch.Tensor) -> None:
    """x y^T, tile by tile into a small buffer."""
    out = torch.empty(ROWS, TILE)
    for rows in x.split(ROWS):
        for tile in y.split(TILE):
            torch.mm(rows, tile.T, out=out[: len(rows), : len(tile)])


def inverted_file(y: torch.Tensor, g: torch.Tensor, x: torch.Tensor, exact: torch.Tensor, base: float) -> None:
    """faiss' inverted file on inner products, the potential being one more coordinate."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    data = torch.cat([y - y.mean(0), g[:, None].float()], 1).numpy()
    asked = torch.cat([x.float(), torch.ones(len(x), 1)], 1).numpy()
    lists = int(len(y) ** 0.5)
    quantiser = faiss.IndexFlatIP(data.shape[1])
    index = faiss.IndexIVFFlat(quantiser, data.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.train(data)
    index.add(data)
    for probes in (1, 4, 16, lists // 2):
        index.nprobe = probes
        started = time.perf_counter()
        found = index.search(asked, 1)[1][:, 0]
        took = time.perf_counter() - started
        right = np.mean(found == exact.numpy())
        print(f"    inverted file, {probes} of {lists} lists: {100 * right:.1f} % right, {took / base:.2f} x the time")


def against_index(count: int, points: int) -> None:
    """faiss' exact index on inner products, the potential being one more coordinate, and ours by turns."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    y = torch.randn(count, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 2, 64)
    targets = Targets(y)
    std = semidiscrete_cost_std(targets, Noise())
    g = targets.start(Noise().points(0, 2**14), 0.2 * std)
    x = torch.from_numpy(noise.gaussian(1, 0, points, 64)).double()
    u = torch.zeros(points, dtype=torch.float64)
    assignment, index = Assignment(y, g, 0.0), faiss.IndexFlatIP(65)
    index.add(torch.cat([y - y.mean(0), g[:, None].float()], 1).numpy())
    asked = torch.cat([x.float(), torch.ones(points, 1)], 1).numpy()
    for _ in range(2):
        started = time.perf_counter()
        ours = assignment.partners(x, u)
        between = time.perf_counter()
        theirs = torch.from_numpy(index.search(asked, 1)[1][:, 0])
        took = between - started, time.perf_counter() - between
        rates = [points * count / seconds / 1e9 for seconds in took]
        print(f"N = {count:,}, {points:,} points: ours {took[0]:.2f} s, {rates[0]:.2f} G entries/s", end=", ")
        print(f"faiss {took[1]:.2f} s, {rates[1]:.2f} G entries/s", flush=True)
    other = (ours != theirs).nonzero()[:, 0]
    worse = assignment.worth(x[other], ours[other]) > assignment.worth(x[other], theirs[other])
    print(f"partners that differ: {len(other)}; by float64 ours is better in {int(worse.sum())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=int, nargs="+", default=[8000, 65_536])
    parser.add_argument("--points", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--against-index", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.against_index:
        against_index(options.against_index, options.points)
        return
    for count in options.data:
        y = problem(count)[1]
        std = semidiscrete_cost_std(Targets(y), Noise())
        g = solve_semidiscrete(Targets(y), Noise(), 0.0, chi2=0.5).g
        x = torch.from_numpy(noise.gaussian(1, 0, options.points, 64)).double()
        u = torch.from_numpy(noise.uniforms(1, noise.Stream.DRAW, 0, options.points))
        print(f"\nN = {count:,}, {options.points:,} points, {options.threads} threads", flush=True)
        ways = {f"rel_eps {rel:g}": Assignment(y, g, rel * std) for rel in (0.0, 0.01, 0.1)}
        whole, left, right = torch.zeros(options.points, count), x.float(), y.T
        products = {"whole": partial(torch.mm, left, right, out=whole), "tiles": partial(product, left, y)}
        took: dict[str, list[float]] = {name: [] for name in (*products, *ways)}
        for _ in range(ROUNDS):
            for name, way in products.items():
                took[name].append(seconds(way))
            for name, assignment in ways.items():
                took[name].append(seconds(assignment.partners, x, u))
        for name in products:
            rate = options.points * count / float(np.median(took[name])) / 1e9
            print(f"    the product alone, {name}: {rate:.2f} G entries/s")
        for name in ways:
            rates = [np.median([a / b for a, b in zip(took[p], took[name], strict=True)]) for p in products]
            print(
                f"    {name}: {100 * rates[0]:.0f} % of the whole's rate, {100 * rates[1]:.0f} % of the tiles'",
                flush=True,
            )
        with contextlib.suppress(ImportError):
            exact = ways["rel_eps 0"].partners(x, u)
            inverted_file(y, g, x, exact, float(np.median(took["rel_eps 0"])))


if __name__ == "__main__":
    main()
