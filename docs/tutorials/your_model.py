"""Your own model: a plain torch module in a plain torch loop over the pairs, and this project's solvers to sample it.

    python docs/tutorials/your_model.py [--output out/tutorials/your_model] [--pairs out/tutorials/digits]

You learn that nothing ties you to `flowpairs train`: a pair store is an iterable of batches, flow matching on them is
one line of regression, and a velocity is whatever you can call with t and x. Takes about half a minute on two
cores, most of it Ray's start and the coupling; a pair store that is there already is used again.
"""

import argparse
import itertools
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from flowpairs import PairLoader
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.couple import couple
from flowpairs.training.sampling.ode import integrate

DIGITS = Path(__file__).parents[2] / "configs" / "digits" / "couple.yaml"
EPOCHS, BATCH = 3, 256


# 1. Your model. A velocity takes times t [b] and states x [b, 1, 8, 8], and returns how x moves, of the same shape.
class Velocity(nn.Module):
    """Three layers on the pixels and the time."""

    def __init__(self, width: int = 384) -> None:
        super().__init__()
        sizes = [64 + 1, width, width, width]
        layers = [part for ins, outs in itertools.pairwise(sizes) for part in (nn.Linear(ins, outs), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), t[:, None]], 1)).view_as(x)


def main(output: Path, pairs: Path) -> None:
    # 2. Pairs of noise and digits; `couple` returns the store's index, at once if the store is complete.
    index = couple(load(CoupleConfig, DIGITS, [f"output.dir={pairs}"]))
    print(f"{index.pairs:,} pairs of shape {index.shape} in {len(index.shards)} shards")

    # 3. Your loop. The loader shuffles, reads ahead in a thread, and yields one epoch each time it is iterated over.
    #    This process gets all rows of a batch; under torch.distributed each rank gets its own. The loss in two lines is
    #    what `flowpairs.flow_matching_loss(model, batch)` computes.
    torch.manual_seed(0)
    model = Velocity()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = PairLoader(pairs, BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * len(loader))
    for epoch in range(1, EPOCHS + 1):
        for batch in loader:
            x0, x1, t = batch["x0"], batch["x1"], torch.rand(len(batch["x0"]))
            x_t = torch.lerp(x0, x1, t[:, None, None, None])  # on the straight line between the two ends
            loss = (model(t, x_t) - (x1 - x0)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch}   loss {loss.item():.3f}")

    # 4. Sample: any function of (t, x) is a velocity to the solvers. The same noises, in fewer and more steps.
    x0 = torch.randn(12, 1, 8, 8)
    drawn = {f"Euler, {steps}": integrate(model, x0, "euler", steps) for steps in (1, 2, 4, 8)}
    adaptive = integrate(model, x0)
    drawn[f"dopri5, {adaptive.nfe}"] = adaptive
    print("\nsolver, evaluations   mean distance to dopri5's samples")
    for name, solution in drawn.items():
        print(f"{name:22}{(solution.end - adaptive.end).flatten(1).norm(dim=1).mean():.2f}")

    # 5. A noise a column, a solver a row: where pairs are straight, few steps go a long way.
    figure, axes = plt.subplots(len(drawn), len(x0), figsize=(5.6, 2.7), layout="constrained")
    for line, (name, solution) in zip(axes, drawn.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, image in zip(line, solution.end, strict=True):
            ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
    figure.suptitle("solver and its evaluations, from the same noise in each column", fontsize=10)
    figure.savefig(output / "your_model.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/tutorials/your_model"))
    parser.add_argument("--pairs", type=Path, default=Path("out/tutorials/digits"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    main(options.output, options.pairs)
