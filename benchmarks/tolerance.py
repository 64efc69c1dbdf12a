"""What the tolerance of a solve costs in a flow's terms: curvature and Frechet distance at several `coupling.tol`.

    python benchmarks/tolerance.py [--data digits Fashion-MNIST] [--steps 1500] [--seeds 2] [--rel-eps 0.03]

The digits (n = 1,797) and Fashion-MNIST (n = 8,000), each coupled by Sinkhorn at a tolerance of 1e-1, 1e-2, 1e-3 and
1e-5, with the same noise and uniforms; then the same MLP, batches and number of steps for all. Passes, marginal error
and the estimated error of the plan are means over the blocks.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import ray
from couplings import run
from fashion import DATA

from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store import block_reports

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-5)
SETS: dict[str, dict[str, Any]] = {
    "digits": {"data": {"path": "digits"}, "n": 1797, "pairs": 40 * 1797},
    "Fashion-MNIST": {
        "data": {"path": str(Path(DATA).resolve() / "fashion_mnist" / "train8000.npz"), "column": "images"},
        "features": {"pca": 64},
        "n": 8000,
        "pairs": 128_000,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rel-eps", type=float, default=0.03)
    parser.add_argument("--dir", type=Path, default=Path("out/tolerance"))
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    for name, setting in ((name, SETS[name]) for name in options.data):
        for tol in TOLERANCES:
            directory = options.dir.absolute() / f"{name}-{tol:g}"
            config = {
                "data": setting["data"],
                "features": setting.get("features", "none"),
                "coupling": {"method": "sinkhorn", "n": setting["n"], "rel_eps": options.rel_eps, "tol": tol},
                "output": {"dir": str(directory / "pairs"), "pairs": setting["pairs"], "payload": "ids"},
            }
            couple(validate(CoupleConfig, config))
            blocks = block_reports.read_blocks(directory / "pairs")
            passes, marginal, plan = (
                np.mean([block[key] for block in blocks]) for key in ("passes", "target_error", "plan_error")
            )
            rows = [
                run(str(directory / "pairs"), directory / f"run-{seed}", options.steps, seed)
                for seed in range(options.seeds)
            ]
            figures = [
                f"{key} {np.mean([row[key] for row in rows]):.4g} +- {np.std([row[key] for row in rows]):.1g}"
                for key in rows[0]
                if key not in ("NFE", "steps/s")
            ]
            solved = f"{passes:.1f} passes, marginal {marginal:.1e}, plan {plan:.1e}"
            print(f"{name}, tol {tol:g}: {solved}; {'; '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
