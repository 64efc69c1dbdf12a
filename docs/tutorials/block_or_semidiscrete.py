"""A large Sinkhorn block or semi-discrete potentials? What each costs, what pairs it gives, what a flow makes of them.

    python docs/tutorials/block_or_semidiscrete.py [--output out/tutorials/block_or_semidiscrete]

You learn the difference between solving block after block and solving once for all noise, and when to take which. Takes
about half a minute; `flowpairs.pipeline.ot` and a plain loop, no Ray. The jobs that do the same on a cluster are

    flowpairs couple configs/digits/couple.yaml
    flowpairs couple configs/digits/couple.yaml coupling.method=semidiscrete coupling.rel_eps=0 output.pairs=0

Take Sinkhorn where the source is data too, where data have weights, where the cost is not the dot product, or where you
want to name the sharpness; and where training should read pairs and compute nothing. Take a semi-discrete coupling
where noise meets one data set and many pairs are wanted: what it solves is one number a datum, every noise has one
partner, and a training job can match fresh noise in every step, so that no pair is stored or seen twice. Its price is a
search over all data for every noise, in every step.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.ot import Assignment, Problem, Targets, solve_semidiscrete, solve_sinkhorn
from flowpairs.training.sampling.curvature import curvature_by_time, integrate_unit_interval

N, STEPS, BATCH = 8192, 400, 256
STYLES = {"independent": ("#555555", ":"), "Sinkhorn": ("#0072b2", "-"), "semi-discrete": ("#d55e00", "--")}


class Noise:
    """Gaussian points by their number: the same whenever and wherever they are asked for."""

    def points(self, first: int, count: int) -> Tensor:
        return torch.from_numpy(noise.gaussian(0, first, count, 64))


def main(output: Path) -> None:
    torch.manual_seed(0)
    pixels = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1
    fresh = Noise().points(2**30, 4 * N)  # noise to make pairs of
    uniforms = torch.rand(4 * N, dtype=torch.float64)  # for the draws of partners
    pairs = {"independent": pixels[(uniforms * len(pixels)).long()]}

    # 1. Sinkhorn solves a block: so many noises and the data. Other noise needs a block of its own, solved anew.
    began, parts = time.perf_counter(), []
    for x0, u in zip(fresh.split(N), uniforms.split(N), strict=True):
        block = solve_sinkhorn(Problem(x0, pixels, eps=0.0).at(rel_eps=0.03))
        parts.append(pixels[block.draw(u)])
    block_seconds = (time.perf_counter() - began) / len(parts)
    pairs["Sinkhorn"] = torch.cat(parts)
    # The report's `partners` is a geometric mean over both sides, which differ in number here: 8,192 and 1,797.
    of_a_noise = block.report.partners * (len(pixels) / N) ** 0.5

    # 2. A semi-discrete coupling solves the data's potential g against all of the noise, which it draws as it needs it.
    #    Then the partner of any noise x is the datum of the largest g_j + <x, y_j>, found by an exact search.
    solved = solve_semidiscrete(Targets(pixels), Noise(), eps=0.0)
    assignment = Assignment(pixels, solved.g, eps=0.0)
    began = time.perf_counter()
    pairs["semi-discrete"] = pixels[assignment.partners(fresh.double(), uniforms)]
    match_seconds = (time.perf_counter() - began) / 4
    print(f"potential of {len(pixels):,} data from {solved.report.points:,} noises; the data's shares of all noise are")
    print(f"off by {solved.report.chi2**0.5:.0%}, root mean square (coupling.chi2 asks for less)\n")

    # 3. Train alike on each, and see how straight the flow became: curvature is E int |v(t, x_t) - (x_1 - x_0)|^2 dt
    #    along its own trajectories, 0 for straight lines. Compare within the table: it falls with longer training as
    #    well.
    seconds = {"independent": (0.0, 0.0), "Sinkhorn": (0.0, block_seconds)}
    seconds["semi-discrete"] = (solved.report.seconds, match_seconds)
    partners = {"independent": float(len(pixels)), "Sinkhorn": of_a_noise, "semi-discrete": 1.0}
    print("pairs           solved once   each 8,192 pairs   partners of a noise   |x0 - x1|^2   curvature")
    bends = {}
    for name, x1 in pairs.items():
        flow = trained(fresh, x1)
        bends[name] = curvature_by_time(flow, Noise().points(2**31, 1024), steps=16) / 1024
        cost, curvature = (fresh - x1).square().sum(1).mean().item(), integrate_unit_interval(bends[name])
        once, each = seconds[name]
        print(f"{name:15} {once:9.2f} s {each:16.2f} s {partners[name]:21.1f} {cost:13.2f} {curvature:11.2f}")

    # 4. Look: what so many pairs cost, and where along the way from noise to data the flows bend.
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.6, 2.8), layout="constrained")
    for name, (color, line) in STYLES.items():
        once, each = seconds[name]
        if each:
            left.plot([0, 64 * N / 1000], [once, once + 64 * each], line, color=color, linewidth=2, label=name)
        right.plot(torch.linspace(0, 1, 17), bends[name], line, color=color, linewidth=2, label=name)
    left.set(xlabel="pairs, thousands", ylabel="seconds to make them", ylim=0)
    right.set(xlabel="time t (0 noise, 1 data)", ylabel="curvature at t", ylim=0)
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(output / "block_or_semidiscrete.png", dpi=150)


def trained(x0: Tensor, x1: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A small velocity net after STEPS steps on the pairs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(65, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64))
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return net(torch.cat([x, t[:, None]], 1))

    for _ in range(STEPS):
        rows, t = torch.randint(len(x0), (BATCH,)), torch.rand(BATCH)
        x_t = torch.lerp(x0[rows], x1[rows], t[:, None])
        loss = (velocity(t, x_t) - (x1[rows] - x0[rows])).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return velocity


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/tutorials/block_or_semidiscrete"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    main(options.output)
