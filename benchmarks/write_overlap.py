"""What share of its time a coupling actor spends solving: writes beside the next block, and writes in turn.

    python benchmarks/write_overlap.py [--n 8192] [--blocks 5]

One actor with one core couples blocks of images of 32x32x3 (random ones: the solver's work depends on their number
alone, the writer's on their bytes) and writes payload full, the most bytes there are. In turn, each block is solved,
then written, as it would be without the second thread. The share is the seconds inside the solver over those from the
first block to the last; the fsync of each shard is part of writing.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray

from flowpairs.pipeline.blocks.division import divide
from flowpairs.pipeline.cluster.actors import ActorPool
from flowpairs.pipeline.cluster.scheduler import schedule
from flowpairs.pipeline.cluster.shapes import ActorShape
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows.make import target_of
from flowpairs.pipeline.solve.block_solver import BlockSolver
from flowpairs.pipeline.solve.inputs import Inputs
from flowpairs.pipeline.solve.job import Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=8192, help="rows of a block")
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    n, pairs = options.n, options.n * options.blocks
    x = np.random.default_rng(0).standard_normal((pairs, 3, 32, 32), np.float32)
    tree = {
        "data": {"path": "memory"},
        "features": {"pca": 64},
        "coupling": {"n": n, "rel_eps": 0.1},
        "output": {"dir": "unused", "pairs": pairs, "pairs_per_shard": 2048, "payload": "full"},
        "cluster": {"actors": 0},
    }
    config = validate(CoupleConfig, tree)
    target = target_of(config.data, DataSpec(pairs, x.shape[1:], 0, "image", 0), x, {})
    job = Job(config, None, divide(config, pairs), Inputs(target)).with_features()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)

    def overlapping(directory: Path) -> float:
        pool = ActorPool(ActorShape(1, 1, 0.0), 1, BlockSolver, ray.put(replace(job, directory=directory)))
        reports = schedule(pool, range(options.blocks))
        next(reports)  # starting the actor and its imports are not measured
        start = time.perf_counter()
        return sum(row["seconds"] for row in reports) / (time.perf_counter() - start)

    def in_turn(directory: Path) -> float:
        solver = BlockSolver(replace(job, directory=directory), 1, "cpu")
        solver.write(solver.solve(0))
        start = time.perf_counter()
        solving = sum(solver.write(solver.solve(block))["seconds"] for block in range(1, options.blocks))
        return solving / (time.perf_counter() - start)

    for name, way in {"beside the next block": overlapping, "in turn": in_turn}.items():
        with tempfile.TemporaryDirectory() as temporary:
            for part in ("shards", "potentials"):
                (Path(temporary) / part).mkdir()
            print(f"writes {name}: {100 * way(Path(temporary)):.0f} % of the time in the solver")


if __name__ == "__main__":
    main()
