"""A UNet on Fashion-MNIST and CIFAR-10: independent pairs against those of one large Sinkhorn block, at equal steps.

    python benchmarks/unet.py [--data fashion cifar] [--steps 1500] [--seeds 1] [--dir out/unet] [--json rows.json]

Data are those of benchmarks/fashion.py's directory: 8,000 images of Fashion-MNIST; 3,000 lossless ones of CIFAR-10,
each also mirrored. A Sinkhorn block has PAIRS noises, every datum with as many partners as that gives (`resample:
repeat`); it sees 64 principal directions. All runs have the same network, initial weights, number of steps and noises
to sample from, and go through `flowpairs couple`'s and `flowpairs train`'s own code.

Frechet distance (FD) of 1,000 samples at Euler 4, 8 and 16 and dopri5: on 64 principal components of the pixels, and
for CIFAR-10 on the outputs of ResNet-20 too. To Fashion-MNIST's 2,000 test images, and to the 3,000 of CIFAR-10
themselves, which are all the lossless ones at hand. "floor" is the FD of 1,000 images of the data set to that
reference, of CIFAR-10 to the other 2,000.

A step takes about 0.3 s of one core, a run a quarter of an hour. Rows go to the JSON file as they come, and a script
that was stopped goes on where it was.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_resnet20
import numpy as np
import ray
import torch
from fashion import DATA
from torch import Tensor

from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store import block_reports
from flowpairs.training.config import SamplerConfig, TrainConfig
from flowpairs.training.metrics.feature_network import extractor
from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance
from flowpairs.training.run.trained import read_finished
from flowpairs.training.sampling.curvature import integrate_unit_interval
from flowpairs.training.sampling.sampler import Sampler
from flowpairs.training.train import train

PAIRS, SAMPLES, STRAIGHTNESS = 65_536, 1_000, 256  # the last: trajectories whose curvature is measured
TOLERANCE = 1e-4  # of dopri5, relative and absolute
MODEL = {"kind": "unet", "channels": [8, 16, 32], "layers": 1}
SETS = {
    "fashion": {"path": "fashion_mnist/train8000.npz", "column": "images"},
    "cifar": {"path": "cifar10_png/train3000.npz", "column": "images", "flips": True},
}
COUPLINGS: dict[str, dict[str, Any]] = {
    "independent": {"method": "independent", "n": PAIRS, "resample": "repeat"},
    "sinkhorn": {"method": "sinkhorn", "n": PAIRS, "resample": "repeat", "rel_eps": 0.03},
}
SOLVERS = [("euler", 4), ("euler", 8), ("euler", 16), ("dopri5", None)]
Features = Callable[[Tensor], Tensor]


def images(path: str) -> Tensor:
    """As the coupling job reads them: float32 [n, C, H, W] in [-1, 1]."""
    x = torch.from_numpy(np.load(DATA / path)["images"]).float() / 127.5 - 1
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()


def measures(data: str) -> tuple[dict[str, Features], dict[str, Gaussian], dict[str, float]]:
    """Features by name, the reference's moments on each, and the FD of real images to it."""
    x = images(str(SETS[data]["path"]))
    reference = images("fashion_mnist/test2000.npz") if data == "fashion" else x
    features: dict[str, Features] = {"PCA": Principal.fit(x, 64)}
    if data == "cifar":
        with tempfile.TemporaryDirectory() as temporary:
            script = Path(temporary) / "resnet20.pt"
            export_resnet20.export(DATA / "feature_resnet_cifar10" / "resnet20_cifar10.npz", script)
            network = extractor(str(script), (3, 32, 32))
        assert network is not None
        features["ResNet-20"] = network.on(torch.device("cpu"))
    moments = {name: Gaussian.fit(of(reference)) for name, of in features.items()}
    others = reference if data == "fashion" else x[SAMPLES:]
    floors = {
        name: frechet_distance(Gaussian.fit(of(others)), Gaussian.fit(of(x[:SAMPLES]))) for name, of in features.items()
    }
    return features, moments, floors


def coupled(data: str, coupling: str, directory: Path) -> dict[str, Any]:
    config = validate(
        CoupleConfig,
        {
            "data": SETS[data] | {"path": str(Path(DATA).resolve() / str(SETS[data]["path"]))},
            "features": {"pca": 64} if coupling == "sinkhorn" else "none",
            "coupling": COUPLINGS[coupling],
            "output": {"dir": str(directory), "pairs": PAIRS, "payload": "ids"},
        },
    )
    couple(config)
    [block] = block_reports.read_blocks(directory)
    return {"sharpness": block["sharpness"], "coupling seconds": block["seconds"]}


def run(data: str, store: Path, directory: Path, steps: int, seed: int) -> dict[str, Any]:
    """Train, sample and measure."""
    optimisation = {"steps": steps, "batch": 64, "ema": 0.995, "seed": seed, "checkpoint_every": 250}
    plain = {"pairs": str(store), "model": MODEL, "train": optimisation, "output": {"dir": str(directory)}}
    summary = train(validate(TrainConfig, plain | {"cluster": {"workers": 1}}))
    trained, device = read_finished(directory), torch.device("cpu")
    straightness = Sampler(trained, SamplerConfig(samples=STRAIGHTNESS, batch=128, seed=seed), None, device)
    row: dict[str, Any] = {"curvature": integrate_unit_interval(straightness.curvature())}
    asked = SamplerConfig(samples=SAMPLES, batch=125, rtol=TOLERANCE, atol=TOLERANCE, seed=seed)
    sampler = Sampler(trained, asked, None, device)
    features, moments, _ = measures(data)
    for solver, count in SOLVERS:
        samples, nfe = sampler.samples(solver, count)
        for name, of in features.items():
            found = frechet_distance(moments[name], Gaussian.fit(of(samples)))
            row[f"{name} {solver} {count or ''}".strip()] = found
        row["NFE"] = nfe  # of the last, dopri5
    return row | {"loss": summary["loss"], "training seconds": summary["seconds"]}


def table(rows: list[dict[str, Any]], data: str) -> None:
    """Mean and, of several seeds, standard deviation."""
    names = ["PCA"] + (["ResNet-20"] if data == "cifar" else [])
    _, _, floors = measures(data)
    print("\n| data | pairs | E | curvature | FD on | Euler 4 | Euler 8 | Euler 16 | dopri5 (NFE) |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        for coupling in COUPLINGS:
            mine = [row for row in rows if (row["data"], row["pairs"]) == (data, coupling)]
            if not mine:
                continue

            def cell(key: str, mine: list[dict[str, Any]] = mine) -> str:
                values = [row[key] for row in mine]
                return f"{np.mean(values):.3g}" + (f" ± {np.std(values):.2g}" if len(values) > 1 else "")

            distances = [cell(f"{name} {solver} {count or ''}".strip()) for solver, count in SOLVERS]
            head = f"| {data} | {coupling} | {cell('sharpness')} | {cell('curvature')} | {name} | "
            print(head + " | ".join(distances) + f" ({np.mean([row['NFE'] for row in mine]):.0f}) |")
        print(f"| {data} | floor | | | {name} | {floors[name]:.3g} | | | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path("out/unet"))
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--read", type=Path, help="print the table of such rows, and compute none")
    options = parser.parse_args()
    if options.read:
        for data in options.data:
            table(json.loads(options.read.read_text()), data)
        return
    directory = options.dir.absolute()
    torch.set_num_threads(options.cpus)
    ray.init(address="local", num_cpus=options.cpus, include_dashboard=False, log_to_driver=False)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for data in options.data:
            for coupling in COUPLINGS:
                store = directory / f"{data}-{coupling}"
                row = {"data": data, "pairs": coupling, "seed": seed, "steps": options.steps}
                row |= coupled(data, coupling, store)
                row |= run(data, store, directory / f"run-{data}-{coupling}-{seed}", options.steps, seed)
                rows.append(row)
                print(json.dumps(row), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=1))
    for data in options.data:
        table(rows, data)


if __name__ == "__main__":
    main()
