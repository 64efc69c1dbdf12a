"""Figures of a coupling: where its pairs lie, how near their sides are, how its rows share, and what epsilon does."""

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.ticker import MaxNLocator

from flowpairs.training.report.drawing.theme import INK, MUTED, PAGE, axes, fit_square, run_color, to_svg
from flowpairs.training.report.summaries.plan_statistics import SharpnessCurve

LINES = 160  # pairs with a line
BINS = 40


def pair_lines(
    x0: Float[np.ndarray, "k 2"],
    x1: Float[np.ndarray, "k 2"],
    partners: Int64[np.ndarray, " k"] | None,
    axis: str,
    name: str,
) -> str:
    """Draw pairs in a plane, with a line from each x0 to its x1.

    Args:
        x0: the source side.
        x1: the target side.
        partners: the x1 of each x0 instead of its own, for independent pairs; None: its own.
        axis: what the axes show, as in coordinate or principal direction.
        name: the prefix of the SVG's ids.
    """
    to = x1 if partners is None else x1[partners]
    shown = slice(0, LINES)
    with axes(width=4.6, height=4.4) as (figure, ax):
        lines = np.stack([x0[shown], to[shown], np.full((len(x0[shown]), 2), np.nan)], 1).reshape(-1, 2)
        ax.plot(*lines.T, color=run_color(0) if partners is None else MUTED, linewidth=0.7, alpha=0.6)
        ax.plot(*x0[shown].T, "o", color=MUTED, markersize=3.5, markerfacecolor=PAGE)
        ax.plot(*to[shown].T, "o", color=INK, markersize=3)
        fit_square(ax, np.concatenate([x0[shown], x1[shown]]), axis)
    kind = "pairs" if partners is None else "independent pairs"
    return to_svg(figure, name, f"{len(x0[shown])} {kind}, a line from each x0 to its x1")


def histograms(coupled: Float[np.ndarray, " k"], independent: Float[np.ndarray, " k"], label: str, name: str) -> str:
    """Draw a figure's distribution over the pairs, filled, and over independent pairs, as a line."""
    both = np.concatenate([coupled, independent])
    edges = np.linspace(both.min(), both.max() if both.max() > both.min() else both.min() + 1, BINS + 1)
    with axes(height=2.6) as (figure, ax):
        ax.hist(coupled, edges.tolist(), color=run_color(0), alpha=0.75)
        ax.hist(independent, edges.tolist(), histtype="step", color=MUTED, linewidth=1.6, linestyle=(0, (4, 2)))
        ax.set_xlabel(label)
        ax.set_ylabel("pairs")
    return to_svg(figure, name, f"Distribution of the {label}: coupled and independent pairs")


def uses_of_data(uses: dict[int, int], name: str) -> str:
    """Draw how many data occur once, twice and so on; many numbers are put together in equal steps."""
    times = np.array(sorted(uses))
    data = np.array([uses[int(number)] for number in times], np.float64)
    step = max(1, -(-int(times.max() + 1) // BINS))
    bars = np.bincount(times // step, data)
    with axes(height=2.6) as (figure, ax):
        ax.bar(np.arange(len(bars)) * step + (step - 1) / 2, bars, 0.85 * step, color=INK)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("times that a datum occurs")
        ax.set_ylabel("data")
    return to_svg(figure, name, f"How often the data occur: from {times.min()} to {times.max()} times")


def partners_of_rows(partners: Float[np.ndarray, " rows"], name: str) -> str:
    """Draw the distribution of the effective number of partners over source rows, on a log scale."""
    low, high = max(1.0, partners.min()), max(1.1, partners.max())
    edges = np.geomspace(low, max(high, low * 1.1), 25)
    with axes(height=2.6) as (figure, ax):
        ax.hist(partners.clip(low), edges.tolist(), color=INK)
        ax.set_xscale("log")
        ax.minorticks_off()
        ticks = np.geomspace(edges[0], edges[-1], 5)
        ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        ax.set_xlabel("effective number of partners of a source row (log scale)")
        ax.set_ylabel("rows")
    return to_svg(figure, name, f"Partners of {len(partners)} source rows")


def sharpness_against_eps(curve: SharpnessCurve, blocks: list[tuple[float, float]], name: str) -> str:
    """Draw sharpness against relative epsilon: a small block as a line, the store's blocks (eps, E) as open circles."""
    with axes(height=2.8) as (figure, ax):
        eps, sharpness = [point.rel_eps for point in curve.points], [point.sharpness for point in curve.points]
        ax.plot(eps, sharpness, "-o", color=run_color(0), markersize=3.5, linewidth=1.6)
        if blocks:
            ax.plot(
                *zip(*blocks, strict=True), "o", color=INK, markersize=7, markerfacecolor="none", markeredgewidth=1.4
            )
        ax.set_xscale("log")
        ticks = sorted({float(f"{value:.0e}") for value in eps})
        apart = [tick for number, tick in enumerate(ticks) if number == 0 or tick > 1.9 * ticks[number - 1]]
        ax.set_xticks(apart, [f"{tick:g}" for tick in apart])
        ax.minorticks_off()
        ax.set_ylim(0, 1)
        ax.set_xlabel("eps / std(C) (log scale)")
        ax.set_ylabel("sharpness E")
    return to_svg(figure, name, "Sharpness against relative epsilon")


def errors_by_pass(errors: list[float], tolerance: float | None, block: int, name: str) -> str:
    """Draw the marginal error of a block after each pass, on a log scale, and the tolerance as a line."""
    shown = np.maximum(errors, 1e-16)
    with axes(height=2.6) as (figure, ax):
        ax.plot(np.arange(1, len(shown) + 1), shown, "-o", color=INK, markersize=3.5, linewidth=1.4)
        if tolerance is not None:
            ax.axhline(tolerance, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        ax.minorticks_off()
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("pass")
        ax.set_ylabel("target error (L1, log scale)")
    return to_svg(figure, name, f"Marginal error of block {block} after each of {len(shown)} passes")
