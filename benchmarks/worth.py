"""What `flowpairs worth` says of pairs before training, against what networks trained on those pairs then do.

    python benchmarks/worth.py [--data digits fashion cifar] [--n 256 2048 16384] [--steps 1200] [--pairs 2048]

Couplings: independent; Sinkhorn at each n with three rel_eps; semi-discrete with three. Each is a pair store of 65,536
pairs, made without Ray, of which `flowpairs worth`'s own code makes an estimate from `--pairs` of them; and an MLP (128
wide, two blocks) is trained on it, with the same steps, learning rate and initial weights for all. Its flow is measured
as `flowpairs evaluate` does: curvature, and the Frechet distance (FD) of 2,000 samples at Euler 1, 2, 4 and 8 to the
data; and the squared distance of those samples from where 32 steps of Heun's rule end.

Data, all in 64 principal directions: scikit-learn's digits; 8,000 images of Fashion-MNIST; the 50,000 training images
of CIFAR-10 (FLOWPAIRS_DATA, as in benchmarks/fashion.py). Rows go to DIR/rows.json as they come, and a script that was
stopped goes on where it was; `--seconds` begins nothing new after so many. One thread.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from fashion import DATA
from PIL import Image
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor

from flowpairs import PairLoader, flow_matching_loss, sample
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance
from flowpairs.training.metrics.worth import EULER, worth_of_stores
from flowpairs.training.models.mlp import MLP
from flowpairs.training.pairs.reference import read_reference
from flowpairs.training.sampling.curvature import curvature_by_time, integrate_unit_interval

PAIRS, SAMPLES, BATCH = 65_536, 2_000, 256
NO_VIEWS: Mapping[str, tuple[Callable[[Tensor], Tensor], Gaussian]] = MappingProxyType({})
SINKHORN, SEMIDISCRETE = (0.03, 0.1, 0.3), (0.0, 0.03, 0.3)


def data(name: str, directory: Path) -> Path:
    """Write the data as rows of 64 numbers."""
    file = directory / f"{name}.npz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        x = SETS[name]()
        np.savez(file, x=Principal.fit(x, 64)(x).float().numpy())
    return file


def digits() -> Tensor:
    """scikit-learn's 1,797 digits."""
    return torch.from_numpy(load_digits().data).float() / 8 - 1


def fashion() -> Tensor:
    """8,000 images of Fashion-MNIST."""
    images = np.load(DATA / "fashion_mnist" / "train8000.npz")["images"]
    return torch.from_numpy(images).flatten(1).float() / 127.5 - 1


def cifar() -> Tensor:
    """The 50,000 training images of CIFAR-10."""
    parts = []
    for file in sorted((DATA / "cifar10_train_jpeg").glob("*.parquet")):
        for row in pq.read_table(file, columns=["img"])["img"].to_pylist():
            parts.append(np.asarray(Image.open(io.BytesIO(row["bytes"]))).transpose(2, 0, 1).reshape(-1))
    return torch.from_numpy(np.stack(parts)).float() / 127.5 - 1


SETS = {"digits": digits, "fashion": fashion, "cifar": cifar}


def couplings(sizes: list[int]) -> dict[str, dict[str, Any]]:
    """The couplings that are compared, by name."""
    found: dict[str, dict[str, Any]] = {"independent": {"method": "independent", "n": 1024}}
    for n in sizes:
        for eps in SINKHORN:
            found[f"sinkhorn n={n} rel_eps={eps}"] = {"method": "sinkhorn", "n": n, "rel_eps": eps}
    for eps in SEMIDISCRETE:
        found[f"semidiscrete rel_eps={eps}"] = {"method": "semidiscrete", "n": 1024, "rel_eps": eps, "chi2": 0.2}
    return found


def make(store: Path, file: Path, coupling: dict[str, Any]) -> None:
    """Make a pair store."""
    tree = {
        "data": {"path": str(file), "column": "x"},
        "coupling": coupling | ({"resample": "repeat"} if coupling["method"] == "sinkhorn" else {}),
        "output": {"dir": str(store), "pairs": PAIRS, "payload": "ids", "pairs_per_shard": 65_536},
        "cluster": {"actors": 0},
    }
    couple(validate(CoupleConfig, tree), lambda _: None)


def fit(
    store: Path, steps: int, seed: int, classes: int, fields: list[str], loss_of: Callable[..., Tensor]
) -> tuple[MLP, list[float]]:
    """Train an MLP on a store's pairs; return its averaged weights, and the losses of the last fifth of the steps.

    Args:
        store: the pair store.
        steps: the steps, whose second half lowers the learning rate to 0.
        seed: of the initial weights, the order of the pairs, the times and the noise.
        classes: labels that the network takes; 0: none.
        fields: what is read of a pair.
        loss_of: the loss of (model, batch, generator).
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    loader = PairLoader(store, BATCH, seed=seed, fields=fields)
    model, averaged = MLP(64, 128, 2, classes), MLP(64, 128, 2, classes)
    averaged.load_state_dict(model.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    step, loss_end = 0, []
    while step < steps:
        for batch in loader:
            rate = min(1.0, step / 100) * (1 if step < steps / 2 else 2 * (1 - step / steps))
            optimiser.param_groups[0]["lr"] = 2e-3 * rate
            loss = loss_of(model, batch, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for slow, fast in zip(averaged.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
            step += 1
            if step > 0.8 * steps:
                loss_end.append(64 * loss.item())
            if step == steps:
                break
    loader.close()
    return averaged, loss_end


def plain_loss(model: MLP, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """The loss without labels."""
    return flow_matching_loss(model, batch, generator=generator)


def trained(
    store: Path, steps: int, seed: int, views: Mapping[str, tuple[Callable[[Tensor], Tensor], Gaussian]] = NO_VIEWS
) -> dict[str, float]:
    """Train an MLP on a store's pairs and measure its flow; views are further features, with those of the data."""
    averaged, loss_end = fit(store, steps, seed, 0, ["x0", "x1"], plain_loss)
    noise = torch.randn(SAMPLES, 64, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        curvature = integrate_unit_interval(curvature_by_time(averaged, noise, 32)) / SAMPLES
        data = Gaussian.fit(read_reference(store, read_index(store)).x)
        found = {"loss": float(np.mean(loss_end)), "curvature": curvature}
        end = sample(averaged, noise, "heun", 32)
        for k in EULER:
            samples = sample(averaged, noise, "euler", k)
            found[f"FD {k}"] = frechet_distance(data, Gaussian.fit(samples))
            for name, (features, moments) in views.items():
                found[f"{name} {k}"] = frechet_distance(moments, Gaussian.fit(features(samples)))
            found[f"Euler {k}"] = (samples - end).square().sum(1).mean().item()
    return found


def estimated(store: Path, pairs: int) -> dict[str, Any]:
    """What `flowpairs worth` says of a store."""
    began, (found,) = time.monotonic(), worth_of_stores([store], pairs)
    row: dict[str, Any] = {"seconds": time.monotonic() - began}
    for name, worth in (("", found.whole), ("half ", found.half)):
        row |= {f"{name}floor": worth.floor, f"{name}curvature": worth.curvature}
        row |= {f"{name}Euler {k}": worth.errors[k] for k in EULER}
    return row


COMPARED = [("loss", "floor"), ("curvature", "curvature"), *((f"Euler {k}", f"Euler {k}") for k in EULER)]
COMPARED += [*((f"FD {k}", f"Euler {k}") for k in EULER), ("FD 4", "curvature"), ("FD 4", "floor")]


def show(name: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print the figures of a data set, and the rank correlations of estimates with what training gave."""
    print(f"\n{name}: | pairs | loss, floor (half) | curvature, estimate (half) | Euler 4, estimate (half) | FD 4 |")
    for coupling, row in rows.items():
        trained, estimate = row["trained"], row["estimated"]
        cells = [
            f"{trained[a]:.3g}, {estimate[b]:.3g} ({estimate[f'half {b}']:.3g})"
            for a, b in (("loss", "floor"), ("curvature", "curvature"), ("Euler 4", "Euler 4"))
        ]
        print(f"| {coupling} | {' | '.join(cells)} | {trained['FD 4']:.3g} |")
    if len(rows) > 2:
        for a, b in COMPARED:
            values = [[row["trained"][a] for row in rows.values()], [row["estimated"][b] for row in rows.values()]]
            print(f"rank correlation of the trained {a} with the estimated {b}: {spearmanr(*values)[0]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--n", type=int, nargs="+", default=[256, 2048, 16384])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--pairs", type=int, default=2048, help="that an estimate is made from")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--skip", nargs="*", default=[], help="couplings whose name begins so")
    parser.add_argument("--dir", type=Path, default=Path("out/worth"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    directory, began = options.dir.absolute(), time.monotonic()
    for name in options.data:
        file = data(name, directory)
        kept = directory / f"rows-{name}.json"
        rows: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}
        for coupling, how in couplings(options.n).items():
            if time.monotonic() - began > options.seconds or coupling.startswith(tuple(options.skip)):
                continue
            store, row = directory / f"{name}-{coupling.replace(' ', '-')}", rows.setdefault(coupling, {})
            if not row:
                make(store, file, how)
                row["trained"] = trained(store, options.steps, seed=0)
            if row.get("pairs") != options.pairs:
                row["pairs"], row["estimated"] = options.pairs, estimated(store, options.pairs)
            kept.write_text(json.dumps(rows, indent=1))
        show(name, {coupling: row for coupling, row in rows.items() if "estimated" in row})


if __name__ == "__main__":
    main()
