"""The curves and scatter plots of runs; each function returns an inline SVG, or bytes of a PNG.

Runs are given in groups, which are runs that differ by their seed alone; a group has one colour.
"""

import io

import numpy as np
from jaxtyping import Float, Int
from matplotlib.ticker import MaxNLocator

from flowpairs.training.report.drawing.theme import (
    INK,
    MARKERS,
    MUTED,
    PAGE,
    axes,
    fit_square,
    run_color,
    run_style,
    to_svg,
)
from flowpairs.training.report.seeds import Mean, RunGroup
from flowpairs.training.report.summaries.runs import Metrics
from flowpairs.training.report.summaries.stores import BlockSummary

GroupNumber = int  # the position of a group among the runs, which determines its colour


def loss_curves(groups: list[tuple[GroupNumber, RunGroup]]) -> str:
    """Plot the training loss against steps, raw and smoothed, on axes that fit the smoothed curves."""
    with axes() as (figure, ax):
        extremes = []
        for index, run in [(index, run) for index, group in groups for run in group.runs]:
            if run.metrics is None:
                continue
            smooth = smoothed(run.metrics)
            ax.plot(run.metrics.step, run.metrics.loss, color=run_color(index), alpha=0.35, linewidth=0.8)
            ax.plot(smooth.step, smooth.loss, linewidth=1.8, **run_style(index))
            finite = smooth.loss[np.isfinite(smooth.loss)]
            extremes += [finite.min(), finite.max()] if finite.size else []
        if extremes and max(extremes) > min(extremes):
            margin = 0.15 * (max(extremes) - min(extremes))
            ax.set_ylim(min(extremes) - margin, max(extremes) + margin)
        ax.set_xlabel("training step")
        ax.set_ylabel("loss (squared error per coordinate)")
    return to_svg(figure, "loss", "Training loss against steps: " + ", ".join(group.name for _, group in groups))


def smoothed(metrics: Metrics) -> Metrics:
    """Compute a centred moving mean over a twentieth of the log, without padding, which would invent values."""
    window = max(1, len(metrics.step) // 20)
    kernel = np.full(window, 1 / window)
    loss = np.convolve(metrics.loss, kernel, mode="valid")
    return Metrics(metrics.step[(window - 1) // 2 :][: len(loss)], loss)


def frechet_against_nfe(groups: list[tuple[GroupNumber, RunGroup]], floor: float | None) -> str:
    """Plot the Frechet distance against function evaluations: Euler as a line, other solvers as open marks.

    Args:
        groups: the runs; where a group has several, their mean with bars of their standard deviation.
        floor: the distance of real data, a dashed line; None: unknown.
    """
    with axes() as (figure, ax):
        ticks = set()
        for index, group in groups:
            marker, color = MARKERS[index % len(MARKERS)], run_color(index)
            euler, other = _means(group, euler=True), _means(group, euler=False)
            if euler:
                nfe, fd, bars = zip(*euler, strict=True)
                ax.errorbar(
                    nfe, fd, yerr=bars, marker=marker, markersize=5, linewidth=1.8, elinewidth=1.2, capsize=3,
                    **run_style(index),
                )  # fmt: skip
            if other:
                nfe, fd, bars = zip(*other, strict=True)
                ax.errorbar(
                    nfe, fd, yerr=bars, fmt=marker, markersize=7, markerfacecolor=PAGE, markeredgewidth=1.6,
                    elinewidth=1.2, capsize=3, color=color,
                )  # fmt: skip
            ticks |= {nfe for nfe, _, _ in euler + other}
        if floor is not None:
            ax.axhline(floor, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        ax.set_xscale("log", base=2)
        kept = _apart(sorted(ticks))
        ax.set_xticks(kept, [f"{tick:.3g}" for tick in kept])
        ax.minorticks_off()
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
        ax.set_xlabel("NFE (function evaluations, log scale)")
        ax.set_ylabel("Fréchet distance")
    return to_svg(figure, "frechet", "Fréchet distance against the number of function evaluations, per run")


def _means(group: RunGroup, *, euler: bool) -> list[tuple[float, float, float]]:
    """List (evaluations, mean distance, standard deviation) over a group's runs, of Euler or of the other solvers."""
    found: dict[tuple[str, float | None], list[tuple[float, float]]] = {}
    for run in group.evaluated:
        assert run.evaluation is not None
        for f in run.evaluation.frechet:
            if (f.solver == "euler") == euler:
                key = f.solver, None if f.solver == "dopri5" else f.nfe
                found.setdefault(key, []).append((f.nfe, f.fd))
    out = []
    for values in found.values():
        nfe, fd = Mean.of([nfe for nfe, _ in values]), Mean.of([fd for _, fd in values])
        assert nfe is not None
        assert fd is not None
        out.append((nfe.value, fd.value, fd.spread or 0.0))
    return sorted(out)


def _apart(ticks: list[float]) -> list[float]:
    """Drop ticks whose labels would overlap the previous one: adaptive solvers need similar numbers of evaluations."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= 1.25 * kept[-1]:
            kept.append(tick)
    return kept


def figure_along_t(groups: list[tuple[GroupNumber, RunGroup]], figure_of: str, label: str, name: str) -> str:
    """Plot a figure of the evaluations that is a function of t, per run.

    Args:
        groups: the runs.
        figure_of: which, as the attribute of an `Evaluation`.
        label: the label of its axis.
        name: the prefix of the SVG's ids.
    """
    with axes() as (figure, ax):
        for index, group in groups:
            for run in group.evaluated:
                curve = getattr(run.evaluation, figure_of)
                if curve is not None:
                    ax.plot(curve.t, curve.value, linewidth=1.8, **run_style(index))
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
        ax.set_xlabel("t (0: source, 1: data)")
        ax.set_ylabel(label)
    return to_svg(figure, name, f"{name.capitalize()} along t, per run")


def sharpness_by_block(blocks: list[BlockSummary], name: str) -> str:
    """Plot the sharpness E of every block."""
    with axes() as (figure, ax):
        rows = [(block.block, block.sharpness) for block in blocks if block.sharpness is not None]
        number, sharpness = [block for block, _ in rows], [level for _, level in rows]
        ax.plot(number, sharpness, "o", color=INK, markersize=3, clip_on=False)
        ax.set_ylim(0, max(0.1, 1.15 * max(sharpness)))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("block")
        ax.set_ylabel("sharpness E")
    return to_svg(figure, name, f"Sharpness of {len(blocks)} blocks")


def errors_by_block(blocks: list[BlockSummary], tolerance: float | None, name: str) -> str:
    """Plot both marginal errors of every block, and the tolerance as a line if there is one."""
    rows = [
        (block.block, block.source_error, block.target_error)
        for block in blocks
        if block.source_error is not None and block.target_error is not None
    ]
    number, source, target = ([row[column] for row in rows] for column in range(3))
    with axes() as (figure, ax):
        ax.plot(
            number,
            source,
            "o",
            color=MUTED,
            markersize=4,
            markerfacecolor=PAGE,
            clip_on=False,
        )
        ax.plot(number, target, "o", color=INK, markersize=3)
        if tolerance is not None:
            ax.axhline(tolerance, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        largest = max(tolerance or 0.0, *source, *target)
        ax.set_ylim(0, 1.15 * largest or 1e-3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("block")
        ax.set_ylabel("marginal error (L1)")
    return to_svg(figure, name, f"Marginal errors of {len(blocks)} blocks")


def plane_samples(
    samples: Float[np.ndarray, "k 2"],
    real: Float[np.ndarray, "r 2"],
    index: GroupNumber,
    name: str,
    axis: str = "coordinate",
) -> str:
    """Draw samples in the plane over the real data."""
    with axes(width=2.9, height=2.8) as (figure, ax):
        ax.plot(*real.T, "o", color=MUTED, alpha=0.4, markersize=4, markeredgewidth=0)
        ax.plot(*samples.T, MARKERS[index % len(MARKERS)], color=run_color(index), markersize=3)
        fit_square(ax, real, axis)
    return to_svg(figure, name, f"{len(samples)} samples over {len(real)} real points")


def scatter(samples: Float[np.ndarray, "k 2"], labels: Int[np.ndarray, " k"] | None) -> bytes:
    """Draw points in the plane, coloured by label, as a PNG file of its own."""
    buffer = io.BytesIO()
    with axes(width=4.6, height=4.4) as (figure, ax):
        figure.patch.set(visible=True, facecolor=PAGE)
        ax.scatter(samples[:, 0], samples[:, 1], s=9, c=INK if labels is None else labels, linewidths=0)
        fit_square(ax, samples)
        figure.savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


def draw_trajectories(paths: Float[np.ndarray, "k times 2"], index: GroupNumber, name: str, axis: str) -> str:
    """Draw trajectories of the flow in a plane, from open circles at t = 0 to filled ones at t = 1.

    Args:
        paths: the trajectories.
        index: the run that they belong to.
        name: the prefix of the SVG's ids.
        axis: what the axes show, as in coordinate or principal direction.
    """
    with axes(width=4.6, height=4.4) as (figure, ax):
        for path in paths:
            ax.plot(*path.T, color=run_color(index), linewidth=0.7, alpha=0.55)
        ax.plot(*paths[:, 0].T, "o", color=MUTED, markersize=3, markerfacecolor=PAGE)
        ax.plot(*paths[:, -1].T, "o", color=INK, markersize=3)
        fit_square(ax, paths.reshape(-1, 2), axis)
    return to_svg(figure, name, f"{len(paths)} trajectories of the flow")
