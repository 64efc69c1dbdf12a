"""Label-blind couplings with classifier-free guidance, beside couplings per class and with labels in the cost.

    python benchmarks/guidance.py [--data digits fashion] [--steps 1200] [--seeds 3] [--guidance 1 1.5 2]
                                  [--pairs ...] [--beta 3]

Data: scikit-learn's digits, and 8,000 images of Fashion-MNIST (FLOWPAIRS_DATA, as in benchmarks/fashion.py), in 64
principal directions, with labels. Pairs: independent; Sinkhorn blocks that do not see labels; semi-discrete potentials
that do not (condition blind), that have one coupling per class (condition class), and whose cost contains the labels
(condition extended). On each, an MLP (128 wide, two blocks) that takes the label is trained with a tenth of the labels
hidden, with the same steps and the same initial weights for all, from several seeds.

2,000 samples are drawn with labels as frequent as in the data, by 4 and by 16 Euler steps, at each guidance scale. FD
is the Frechet distance to the data; class FD the mean over classes of that between the samples of a class and its data,
in 16 directions; right is the share of samples whose class a logistic regression on the data sees as asked for.
Means over seeds, and their standard deviations. One thread.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion import DATA
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from worth import PAIRS, SAMPLES, SETS, fit

from flowpairs import flow_matching_loss, sample
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance
from flowpairs.training.models.mlp import MLP

DATASETS, DIM, CLASSES, HIDDEN = ("digits", "fashion"), 64, 10, 0.1
EULER = 4, 16
CLASS_DIM = 16  # directions in which the covariance of a class of a few hundred data is still known
COUPLINGS: dict[str, dict[str, Any]] = {
    "independent": {"method": "independent", "n": 8192},
    "Sinkhorn, blind": {"method": "sinkhorn", "n": 8192, "rel_eps": 0.03},
    "semi-discrete, blind": {"method": "semidiscrete", "n": 8192, "rel_eps": 0.0},
    "semi-discrete, extended": {
        "method": "semidiscrete", "n": 8192, "rel_eps": 0.0, "condition": "extended", "beta": 3.0,
    },
    "semi-discrete, per class": {"method": "semidiscrete", "n": 8192, "rel_eps": 0.0, "condition": "class"},
}  # fmt: skip


def labels_of(name: str) -> np.ndarray:
    """The labels of a data set of benchmarks/worth.py."""
    if name == "digits":
        return load_digits().target
    with np.load(DATA / "fashion_mnist" / "train8000.npz") as file:
        return file["labels"].astype(np.int64)


def make(store: Path, file: Path, coupling: dict[str, Any]) -> None:
    """Make a pair store."""
    tree = {
        "data": {"path": str(file), "column": "x", "label": "label"},
        "coupling": coupling | ({"resample": "repeat"} if coupling["method"] != "semidiscrete" else {"chi2": 0.05}),
        "output": {"dir": str(store), "pairs": PAIRS, "payload": "ids"},
        "cluster": {"actors": 0},
    }
    couple(validate(CoupleConfig, tree), lambda _: None)


def loss_with_labels(model: MLP, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """The loss where some labels are hidden behind the label that stands for none."""
    hidden = torch.rand(len(batch["label"]), generator=generator) < HIDDEN
    return flow_matching_loss(model, batch, label=torch.where(hidden, CLASSES, batch["label"]), generator=generator)


def train(store: Path, steps: int, seed: int) -> MLP:
    """Train an MLP on a store's pairs with their labels, and return its averaged weights; label 10 stands for none."""
    return fit(store, steps, seed, CLASSES + 1, ["x0", "x1", "label"], loss_with_labels)[0]


def guided(model: MLP, label: Tensor, scale: float) -> Any:
    """The velocity v(no label) + scale (v(label) - v(no label))."""
    none = torch.full_like(label, CLASSES)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        with_label = model(t, x, label)
        return with_label if scale == 1 else torch.lerp(model(t, x, none), with_label, scale)

    return velocity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--pairs", nargs="+", choices=COUPLINGS, default=list(COUPLINGS))
    parser.add_argument("--beta", type=float, default=3.0, help="of the extended coupling, in units of the data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.data:
            images, labels = SETS[name](), labels_of(name)
            x = Principal.fit(images, DIM)(images).float()
            file = Path(temporary) / f"{name}.npz"
            np.savez(file, x=x.numpy(), label=labels)
            compare(name, Path(temporary), file, x, labels, options)


def compare(name: str, directory: Path, file: Path, x: Tensor, labels: np.ndarray, options: argparse.Namespace) -> None:
    """Train on every coupling of a data set and print a table."""
    real = Gaussian.fit(x)
    of_class = [Gaussian.fit(x[labels == number, :CLASS_DIM]) for number in range(CLASSES)]
    classifier = LogisticRegression(max_iter=2_000).fit(x.numpy(), labels)
    noise = torch.randn(SAMPLES, DIM, generator=torch.Generator().manual_seed(7))
    asked = torch.from_numpy(np.random.default_rng(7).choice(labels, SAMPLES))
    print(f"\n{name}, {options.steps} steps, {options.seeds} seeds\n", flush=True)
    heads = [f"{figure}, {k} steps" for k in EULER for figure in ("FD", "class FD", "right")]
    print(f"| pairs | guidance | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
    for coupling in options.pairs:
        how = COUPLINGS[coupling] | ({"beta": options.beta} if "beta" in COUPLINGS[coupling] else {})
        store = directory / f"{name}-{coupling.replace(' ', '-').replace(',', '')}"
        make(store, file, how)
        models = [train(store, options.steps, seed) for seed in range(options.seeds)]
        for scale in options.guidance:
            rows = []
            for model in models:
                row = []
                for k in EULER:
                    with torch.no_grad():
                        drawn = sample(guided(model, asked, scale), noise, "euler", k)
                    parts = [drawn[asked == number, :CLASS_DIM] for number in range(CLASSES)]
                    apart = [frechet_distance(of_class[c], Gaussian.fit(part)) for c, part in enumerate(parts)]
                    right = float((classifier.predict(drawn.numpy()) == asked.numpy()).mean())
                    row += [frechet_distance(real, Gaussian.fit(drawn)), float(np.mean(apart)), right]
                rows.append(row)
            mean, spread = np.mean(rows, 0), np.std(rows, 0, ddof=1) if len(rows) > 1 else np.zeros(len(rows[0]))
            cells = " | ".join(f"{m:.3g} ± {s:.1g}" for m, s in zip(mean, spread, strict=True))
            print(f"| {coupling} | {scale:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
