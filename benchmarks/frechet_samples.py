"""How far the number of samples moves a Frechet distance: 1,000, 5,000 and 50,000 samples of the same flows.

    flowpairs demo out/demo
    python benchmarks/frechet_samples.py out/demo/run-sinkhorn out/demo/run-independent [--samples 50000]

A sample depends on its number alone, so 50,000 samples hold 50 sets of 1,000 and 10 of 5,000: the table has the mean
and the standard deviation over them. The covariance of few samples has an error of its own, which the distance counts,
so few samples are farther from the data than many.
"""

import argparse

import torch

from flowpairs.pipeline.store.format import read_index
from flowpairs.training.config import EvaluateConfig
from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance
from flowpairs.training.pairs.endpoints import read_endpoints
from flowpairs.training.run.trained import read_finished
from flowpairs.training.sampling.sampler import Sampler

SIZES = 1_000, 5_000, 50_000
SOLVERS: tuple[tuple[str, int | None], ...] = (("euler", 4), ("euler", 16), ("dopri5", None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--samples", type=int, default=SIZES[-1])
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= options.samples]
    print(f"| run | solver | {' | '.join(f'{size:,}' for size in sizes)} |")
    print(f"|---|---|{'---|' * len(sizes)}")
    for run in options.runs:
        trained, config = read_finished(run), EvaluateConfig(samples=options.samples)
        end = read_endpoints(trained.pairs, read_index(trained.pairs), config).end
        principal = Principal.fit(end.x, config.pca)
        real = Gaussian.fit(principal(end.x))
        sampler = Sampler(trained, config, end.label, torch.device("cpu"))
        for solver, steps in SOLVERS:
            features = principal(sampler.samples(solver, steps)[0])
            cells = []
            for size in sizes:
                sets = features.split(size)
                found = torch.tensor([frechet_distance(real, Gaussian.fit(some)) for some in sets if len(some) == size])
                spread = f" ± {found.std():.2g}" if len(found) > 1 else ""
                cells.append(f"{found.mean():.4g}{spread}")
            name = solver if steps is None else f"{solver} {steps}"
            print(f"| {trained.run.path.name} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
