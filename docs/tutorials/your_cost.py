"""Your own cost: say in a few lines of torch what makes two data alike, and the coupling goes by it.

    python docs/tutorials/your_cost.py [--output out/tutorials/your_cost]

You learn what a cost function is given and returns, how to try one in seconds before a job runs on it, how to judge it
by the partners it finds, and how a config names it. Takes about ten seconds; `flowpairs.pipeline.ot` alone, no Ray.

The example translates between two sets of images. A flow from one to the other keeps what its pairs have in common, so
the cost decides what is kept. Here every image was taken in a light of its own, from one side or another, and the
squared distance pairs the sets by their light. A cost that looks past it pairs them by what they show.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor

from flowpairs.pipeline.config import validate
from flowpairs.pipeline.config.coupling import CouplingConfig
from flowpairs.pipeline.ot import Problem, solve_for_sharpness

# Light as a plane over an 8x8 image: its level and its two slopes, as orthonormal directions [64, 3] among the pixels.
SLOPE = torch.linspace(-1, 1, 8)
LIGHT, _ = torch.linalg.qr(torch.stack([torch.ones(64), SLOPE.repeat(8), SLOPE.repeat_interleave(8)], 1))


# 1. The cost: a function of two tiles of features, x [r, d] and y [c, d], that returns the cost of every pair [r, c].
#    The tiles are small, so it may hold [r, c, d] on the way, and nothing n x n is ever stored. A coupling job takes
#    the mean of the data off both sides first: a cost that depends on x - y alone, as this one, does not notice.
#    A cost that needs no torch can be a formula instead, text that is compiled for it: cost="keops:Sum(Abs(X - Y))"
#    (docs/solver.md, "Costs of your own").
def past_the_light(x: Tensor, y: Tensor) -> Tensor:
    """The squared distance of images without their light."""
    x, y = (points - points @ LIGHT @ LIGHT.T for points in (x, y))
    return torch.cdist(x, y).square()


COUPLE = """\
data:     {{path: {output}/target.npz}}
source:   {{kind: data, path: {output}/source.npz}}
coupling: {{method: sinkhorn, n: 898, sharpness: 0.1, cost: your_cost:past_the_light}}
output:   {{dir: {output}/pairs, pairs: 898}}
"""


def main(output: Path) -> None:
    # 2. Two sets of digits, 898 each, each image under its own light.
    torch.manual_seed(0)
    order = torch.randperm(1796)
    images = torch.tensor(load_digits().data, dtype=torch.float32)[order] / 8 - 1
    labels = torch.tensor(load_digits().target)[order]
    light = 5 * torch.randn(len(images), 3)
    lit = images + light @ LIGHT.T
    x0, x1 = lit[:898], lit[898:]

    # 3. Couple at both costs. Costs have units of their own, in which one epsilon means different things: ask for a
    #    sharpness instead (see choosing_epsilon.py). A config names the function, and the job finds it by that name.
    mine = validate(CouplingConfig, {"n": 898, "cost": "your_cost:past_the_light"}).cost_function()
    partners = {}
    print("cost               E   passes   partner of the same class   light correlates")
    for name, cost in {"sqeuclidean": "sqeuclidean", "past_the_light": mine}.items():
        coupling = solve_for_sharpness(Problem(x0, x1, eps=0.0, cost=cost), 0.1)
        partners[name] = coupling.draw(torch.rand(898, dtype=torch.float64))

        # 4. Judge a cost by what should survive the translation, here the class, and by what should not matter, the
        #    light.
        same = (labels[:898] == labels[898:][partners[name]]).double().mean().item()
        alike = np.corrcoef(light[:898].flatten(), light[898:][partners[name]].flatten())[0, 1]
        print(f"{name:15}{coupling.report.sharpness:6.3f}{coupling.report.passes:6}{same:22.0%}{alike:22.2f}")

    # 5. The same as a job: the two sets as files, and a config that names the cost. Its module must be importable where
    #    the job runs; `flowpairs submit` takes it along to a cluster.
    np.savez(output / "source.npz", image=x0.view(-1, 8, 8))
    np.savez(output / "target.npz", image=x1.view(-1, 8, 8))
    (output / "couple.yaml").write_text(COUPLE.format(output=output))
    print(f"\nas a job: PYTHONPATH=docs/tutorials flowpairs couple {output}/couple.yaml")

    # 6. Look: a source image a column, and below it the partners that either cost gave it.
    rows = {"source": x0[:9], **{f"by\n{name}": x1[chosen[:9]] for name, chosen in partners.items()}}
    figure, axes = plt.subplots(3, 9, figsize=(5.6, 1.8), layout="constrained")
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, image in zip(line, row, strict=True):
            ax.imshow(image.view(8, 8), cmap="gray", vmin=-2.5, vmax=2.5)
            ax.set(xticks=[], yticks=[])
    figure.savefig(output / "your_cost.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/tutorials/your_cost"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    main(options.output)
