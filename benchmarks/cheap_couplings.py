"""Couplings that cost next to nothing, beside Sinkhorn and semi-discrete ones: cost, seconds, and the flows they train.

    python benchmarks/cheap_couplings.py [--n 8192 65536] [--steps 1200] [--seeds 2] [--pairs ...]

Data: CIFAR-10's 50,000 training images and their mirror images in 64 principal directions (FLOWPAIRS_DATA, as in
benchmarks/fashion.py), n of them, and n rows of noise:

    independent      no coupling
    quantiles        each direction for itself, by ranks: the noise of a datum is, direction by direction, that of its
                     rank (coordinate-wise, as in arXiv 2608.00978). Such noise is normal in each direction, but its
                     directions depend on each other as the data's do; sampling starts from independent ones
    batches of 256   the exact coupling of every 256 of both, as torchcfm does in training
    BSP              a bijection by random binary space partitions, the best merge of 16 and of 64 of them, from POT
                     (Genest et al. 2025); its seconds grow as n log n
    Sinkhorn         one block, rel_eps .03
    semi-discrete    one potential for all noise, eps 0, chi-square 0.05: its seconds and those of assigning n rows

Cost is the mean squared distance of a pair, as a share of that of independent ones. On each, an MLP (128 wide, two
blocks) is trained with the same steps and initial weights: curvature, and the Frechet distance of 2,000 samples to the
data at 1, 2, 4 and 8 Euler steps, means over seeds. FD is taken of the coordinates themselves, whose covariance is all
that it sees, and, as R-20, of what a ResNet-20 trained on CIFAR-10 answers to the images that the coordinates are of:
that sees what directions have in common beyond it. Two threads for couplings, one for training.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import export_resnet20
import numpy as np
import ot.bsp
import torch
from fashion import DATA
from torch import Tensor
from worth import SAMPLES, cifar, trained

import flowpairs as fp
from flowpairs.training.metrics.feature_network import extractor
from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance

DIM, BATCH = 64, 256
REFERENCE = 10_000  # images whose features samples are compared with
Coupled = tuple[Tensor, Tensor]


def data() -> tuple[Tensor, Principal]:
    """The images and their mirror images in principal directions [100000, 64], and these."""
    images = cifar()
    mirrored = images.view(-1, 3, 32, 32).flip(3).flatten(1)
    principal = Principal.fit(torch.cat([images, mirrored])[::4], DIM)
    rows = torch.cat([principal(part).float() for part in (*images.split(10_000), *mirrored.split(10_000))])
    return rows, principal


def resnet20(principal: Principal) -> Callable[[Tensor], Tensor]:
    """Features of the images that coordinates are of."""
    with tempfile.TemporaryDirectory() as temporary:
        script = Path(temporary) / "resnet20.pt"
        export_resnet20.export(DATA / "feature_resnet_cifar10" / "resnet20_cifar10.npz", script)
        network = extractor(str(script), (3, 32, 32))
    assert network is not None
    features = network.on(torch.device("cpu"))

    def of_coordinates(x: Tensor) -> Tensor:
        images = (principal.mean + x.double() @ principal.directions.T).float().clamp(-1, 1)
        return features(images.view(-1, 3, 32, 32))

    return of_coordinates


def independent(x0: Tensor, x1: Tensor) -> Coupled:
    return x0, x1


def quantiles(x0: Tensor, x1: Tensor) -> Coupled:
    return x0.sort(0).values.gather(0, x1.argsort(0).argsort(0)), x1


def batches(x0: Tensor, x1: Tensor) -> Coupled:
    partners = []
    for first in range(0, len(x0), BATCH):
        a, b = x0[first : first + BATCH], x1[first : first + BATCH]
        plan = ot.emd([], [], torch.cdist(a, b).square().double().numpy())
        partners.append(first + plan.argmax(1))
    return x0, x1[np.concatenate(partners)]


def partitions(plans: int) -> Callable[[Tensor, Tensor], Coupled]:
    def couple(x0: Tensor, x1: Tensor) -> Coupled:
        _, partners, _ = ot.bsp.compute_bspot_bijection(x0.double().numpy(), x1.double().numpy(), n_plans=plans)
        return x0, x1[np.asarray(partners)]

    return couple


def sinkhorn(x0: Tensor, x1: Tensor) -> Coupled:
    return x0, x1[torch.as_tensor(fp.solve(x0, x1, rel_eps=0.03).sample())]


def semidiscrete(x0: Tensor, x1: Tensor) -> Coupled:
    pairs = fp.couple(x1, n=len(x0), method="semidiscrete", chi2=0.05)
    return torch.as_tensor(pairs.x0), torch.as_tensor(pairs.x1)


METHODS: dict[str, Callable[[Tensor, Tensor], Coupled]] = {
    "independent": independent,
    "quantiles": quantiles,
    "batches of 256": batches,
    "BSP, 16 plans": partitions(16),
    "BSP, 64 plans": partitions(64),
    "Sinkhorn": sinkhorn,
    "semi-discrete": semidiscrete,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--pairs", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    every, principal = data()
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    features, seen = resnet20(principal), every[order[:REFERENCE]]
    views = {"R-20": (features, Gaussian.fit(features(seen)))}
    floor = frechet_distance(views["R-20"][1], Gaussian.fit(features(every[order[REFERENCE:][:SAMPLES]])))
    print(f"R-20 of {SAMPLES:,} other images: {floor:.3g}")
    columns = "curvature", *(f"{name} {k}" for name in ("FD", "R-20") for k in (1, 2, 4, 8))
    print(f"| n | pairs | cost | seconds | {' | '.join(columns)} |\n|{'---|' * (4 + len(columns))}")
    for n in options.n:
        x1, x0 = every[order[:n]], torch.randn(n, DIM, generator=torch.Generator().manual_seed(1))
        apart = (x0 - x1).square().sum(1).mean()
        for name in options.pairs:
            couple = METHODS[name]
            torch.set_num_threads(2)
            began = time.perf_counter()
            a, b = couple(x0, x1)
            seconds, cost = time.perf_counter() - began, float((a - b).square().sum(1).mean() / apart)
            torch.set_num_threads(1)
            with tempfile.TemporaryDirectory() as store:
                fp.write(Path(store) / "pairs", a, b)
                rows = [trained(Path(store) / "pairs", options.steps, seed, views) for seed in range(options.seeds)]
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            figures = " | ".join(f"{mean[key]:.3g}" for key in columns)
            print(f"| {n:,} | {name} | {cost:.3f} | {seconds:.1f} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
