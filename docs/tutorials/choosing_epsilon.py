"""How sharp should a coupling be? Choose the sharpness E, and let the solver find the epsilon for it.

    python docs/tutorials/choosing_epsilon.py [--output out/tutorials/choosing_epsilon]

You learn what E is, what pairs look like at several E, why one epsilon means different things for different data and
different n, and that asking for E costs hardly more than asking for an epsilon. Takes about ten seconds; nothing but
`flowpairs.pipeline.ot`, no Ray.

An entropic coupling P of n noises and n data minimises <P, C> - eps H(P). The larger eps, the more partners a noise
has. E = 2 H(P) / (H(a) + H(b)) - 1 counts them on a logarithmic scale that does not depend on n: a noise has n^E
partners, one at E = 0 (a permutation) and all n at E = 1 (independent pairs). `rel_eps` is eps over the cost's standard
deviation.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor

from flowpairs.pipeline.ot import Coupling, Problem, independent, solve_for_sharpness, solve_sinkhorn

GREY, BLUE, ORANGE, GREEN = "#999999", "#0072b2", "#d55e00", "#009e73"  # told apart by colour-blind people too
REL_EPS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)


def main(output: Path) -> None:
    # 1. Two problems: noise to eight Gaussians in the plane, which can be drawn, and noise to digits, 64 coordinates.
    torch.manual_seed(0)
    noise, plane = torch.randn(1024, 2), eight_gaussians(1024)
    pixels = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1
    digits = Problem(torch.randn(len(pixels), 64), pixels, eps=0.0)  # `.at(rel_eps)` puts in the epsilon

    # 2. E falls with epsilon, and so does the mean squared distance of a pair. The same rel_eps is a blurred coupling
    #    in the plane and a sharp one in 64 dimensions: there data are few, and a noise has one clear favourite.
    print("              plane, n = 1,024               digits, n = 1,797")
    print("rel_eps       E   partners    cost           E   partners    cost   passes")
    curves: dict[str, list[float]] = {"plane": [], "digits": []}
    for rel_eps in REL_EPS:
        row = f"{rel_eps:<7g}"
        for name, problem in (("plane", Problem(noise, plane, 0.0)), ("digits", digits)):
            report = solve_sinkhorn(problem.at(rel_eps)).report
            curves[name].append(report.sharpness)
            row += f"{report.sharpness:8.3f} {report.partners:10.1f} {report.cost_coupled:7.1f}    "
        print(f"{row}{report.passes:5}")

    # 3. So name the sharpness instead; 0.1 is what arXiv 2506.05526 recommends. In a config:
    #        coupling: {method: sinkhorn, n: 65536, sharpness: 0.1}
    #    In the plane, where a noise has many equally good partners, be content with 0.4: sharper takes a tiny epsilon.
    found = solve_for_sharpness(digits, 0.1).report
    again = solve_sinkhorn(digits.at(found.rel_eps)).report  # what a solve takes when its epsilon is known
    print(f"\ndigits at E = 0.1: rel_eps {found.rel_eps:.4f}, E {found.sharpness:.3f}, found in {found.passes} passes")
    print(f"and {again.passes} passes to solve at that rel_eps")

    # 4. n matters as well: at one epsilon twice as many data are twice as many partners for every noise, and E grows.
    #    So epsilon has to fall as n grows; `sharpness` sees to it.
    sizes = (128, 256, 512, 1024, 2048)
    grown = [solve_sinkhorn(Problem(torch.randn(n, 2), eight_gaussians(n), 0.0).at(0.03)).report for n in sizes]
    levels = [report.sharpness for report in grown]
    print("\nplane at rel_eps 0.03:   n " + " ".join(f"{n:7,}" for n in sizes))
    print("                         E " + " ".join(f"{level:7.3f}" for level in levels))
    print("                  partners " + " ".join(f"{report.partners:7.1f}" for report in grown))

    # 5. Look at draws. Every noise is drawn with one partner of its own, as a coupling job writes it to the pair store.
    problem = Problem(noise, plane, 0.0)
    shown = [("independent", independent(problem))]
    shown += [(f"rel_eps {rel_eps:g}", solve_sinkhorn(problem.at(rel_eps))) for rel_eps in (0.1, 0.003)]
    figure = plt.figure(figsize=(5.6, 5.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    for ax, (name, coupling) in zip(above.subplots(1, 3, sharey=True), shown, strict=True):
        draw_pairs(ax, coupling)
        ax.set_title(f"{name}\nE = {coupling.report.sharpness:.2f}", fontsize=10)
        ax.set_xlabel("x")
    above.axes[0].set_ylabel("y")
    above.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    left, right = below.subplots(1, 2, sharey=True)
    left.semilogx(REL_EPS, curves["plane"], "o-", color=BLUE, label="plane")
    left.semilogx(REL_EPS, curves["digits"], "s--", color=ORANGE, label="digits")
    left.axhline(0.1, color=GREY, linewidth=1, zorder=0)
    left.text(3, 0.11, "E = 0.1", color="#555555", ha="right", va="bottom")
    left.set(xlabel="rel_eps", ylabel="sharpness E", ylim=(0, 1.03))
    left.legend(frameon=False)
    right.plot([f"{n:,}" for n in sizes], levels, "^-", color=GREEN, label="plane, rel_eps 0.03")
    right.set(xlabel="n")
    right.tick_params(axis="x", rotation=40)
    right.legend(frameon=False, loc="lower right")
    figure.savefig(output / "choosing_epsilon.png", dpi=130)


def eight_gaussians(n: int) -> Tensor:
    """n points [n, 2] of eight narrow Gaussians on a circle."""
    angle = torch.randint(8, (n,)) * (torch.pi / 4)
    return 3 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * torch.randn(n, 2)


def draw_pairs(ax: plt.Axes, coupling: Coupling, count: int = 100) -> None:
    """Lines from `count` noises to the partners that the coupling draws for them."""
    partners = coupling.draw(torch.rand(coupling.problem.n, dtype=torch.float64))  # a row of the plan for every noise
    x0, x1 = coupling.problem.x0[:count], coupling.problem.x1[partners[:count]]
    ax.plot(*np.stack([x0, x1], 2).transpose(1, 2, 0), color=GREY, linewidth=0.6, alpha=0.7)
    ax.plot(*x0.T, "o", color=BLUE, markersize=2.5, label="noise")
    ax.plot(*x1.T, "^", color=ORANGE, markersize=3, label="data")
    ax.set(aspect="equal", xlim=(-4, 4), ylim=(-4, 4), xticks=(-3, 0, 3), yticks=(-3, 0, 3))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/tutorials/choosing_epsilon"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    main(options.output)
