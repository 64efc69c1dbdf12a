"""The curves and scatter plots; each function draws what was read and returns an inline SVG, or bytes of a PNG."""

import io

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flowpairs.training.report.runs import Metrics, Run
from flowpairs.training.report.stores import BlockSummary
from flowpairs.training.report.theme import INK, MARKERS, MUTED, PAGE, axes, run_color, run_style, to_svg

RunNumber = int  # the position of a run among the directories, which determines its colour


def loss_curves(runs: list[tuple[RunNumber, Run]]) -> str:
    """Plot the training loss against steps, raw and smoothed, on axes that fit the smoothed curves."""
    with axes() as (figure, ax):
        extremes = []
        for index, run in runs:
            assert run.metrics is not None
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
    return to_svg(figure, "loss", "Training loss against steps: " + ", ".join(run.name for _, run in runs))


def smoothed(metrics: Metrics) -> Metrics:
    """Compute a centred moving mean over a twentieth of the log, without padding, which would invent values."""
    window = max(1, len(metrics.step) // 20)
    kernel = np.full(window, 1 / window)
    loss = np.convolve(metrics.loss, kernel, mode="valid")
    return Metrics(metrics.step[(window - 1) // 2 :][: len(loss)], loss)


def frechet_against_nfe(runs: list[tuple[RunNumber, Run]]) -> str:
    """Plot the Frechet distance against function evaluations: Euler as a line, other solvers as open marks."""
    with axes() as (figure, ax):
        ticks = set()
        for index, run in runs:
            assert run.evaluation is not None
            euler = sorted((f.nfe, f.fd) for f in run.evaluation.frechet if f.solver == "euler")
            other = sorted((f.nfe, f.fd) for f in run.evaluation.frechet if f.solver != "euler")
            marker = MARKERS[index % len(MARKERS)]
            if euler:
                ax.plot(*zip(*euler, strict=True), marker=marker, markersize=5, linewidth=1.8, **run_style(index))
            if other:
                ax.plot(
                    *zip(*other, strict=True), marker, markersize=7, markerfacecolor=PAGE, markeredgewidth=1.6,
                    color=run_color(index),
                )  # fmt: skip
            ticks |= {nfe for nfe, _ in euler + other}
        ax.set_xscale("log", base=2)
        kept = _apart(sorted(ticks))
        ax.set_xticks(kept, [f"{tick:.3g}" for tick in kept])
        ax.minorticks_off()
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
        ax.set_xlabel("NFE (function evaluations, log scale)")
        ax.set_ylabel("Fréchet distance")
    return to_svg(figure, "frechet", "Fréchet distance against the number of function evaluations, per run")


def _apart(ticks: list[float]) -> list[float]:
    """Drop ticks whose labels would overlap the previous one: adaptive solvers need similar numbers of evaluations."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= 1.25 * kept[-1]:
            kept.append(tick)
    return kept


def curvature_along_t(runs: list[tuple[RunNumber, Run]]) -> str:
    """Plot the curvature at each time: the squared distance of the velocity from that of the straight line."""
    with axes() as (figure, ax):
        for index, run in runs:
            assert run.evaluation is not None
            assert run.evaluation.curvature_by_t is not None
            curve = run.evaluation.curvature_by_t
            ax.plot(curve.t, curve.value, linewidth=1.8, **run_style(index))
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
        ax.set_xlabel("t (0: source, 1: data)")
        ax.set_ylabel("E|v − (x1 − x0)|²")
    return to_svg(figure, "curvature", "Curvature along t, per run")


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


def plane_pairs(x0: Float[np.ndarray, "k 2"], x1: Float[np.ndarray, "k 2"], name: str) -> str:
    """Draw pairs in the plane, with a line from each x0 to its x1."""
    with axes(width=4.6, height=4.4) as (figure, ax):
        for start, end in zip(x0, x1, strict=True):
            ax.plot([start[0], end[0]], [start[1], end[1]], color=MUTED, linewidth=0.8, alpha=0.7)
        ax.plot(*x0.T, "o", color=MUTED, markersize=5, markerfacecolor=PAGE)
        ax.plot(*x1.T, "o", color=INK, markersize=5)
        _square(ax, np.concatenate([x0, x1]))
    return to_svg(figure, name, f"{len(x0)} pairs, a line from each x0 to its x1")


def plane_samples(
    samples: Float[np.ndarray, "k 2"],
    real: Float[np.ndarray, "r 2"],
    index: RunNumber,
    name: str,
    axis: str = "coordinate",
) -> str:
    """Draw samples in the plane over the real data."""
    with axes(width=2.9, height=2.8) as (figure, ax):
        ax.plot(*real.T, "o", color=MUTED, alpha=0.4, markersize=4, markeredgewidth=0)
        ax.plot(*samples.T, MARKERS[index % len(MARKERS)], color=run_color(index), markersize=3)
        _square(ax, real, axis)
    return to_svg(figure, name, f"{len(samples)} samples over {len(real)} real points")


def scatter(samples: Float[np.ndarray, "k 2"], labels: Int[np.ndarray, " k"] | None) -> bytes:
    """Draw points in the plane, coloured by label, as a PNG file of its own."""
    buffer = io.BytesIO()
    with axes(width=4.6, height=4.4) as (figure, ax):
        figure.patch.set(visible=True, facecolor=PAGE)
        ax.scatter(samples[:, 0], samples[:, 1], s=9, c=INK if labels is None else labels, linewidths=0)
        _square(ax, samples)
        figure.savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


def draw_trajectories(paths: Float[np.ndarray, "k times 2"], index: RunNumber, name: str, axis: str) -> str:
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
        _square(ax, paths.reshape(-1, 2), axis)
    return to_svg(figure, name, f"{len(paths)} trajectories of the flow")


def _square(ax: Axes, shown: Float[np.ndarray, "k 2"], axis: str = "coordinate") -> None:
    """Set equal scales on both axes, with limits that fit the points `shown`."""
    low, high = shown.min(0), shown.max(0)
    centre, reach = (low + high) / 2, 0.56 * float((high - low).max()) or 1.0
    ax.set_xlim(centre[0] - reach, centre[0] + reach)
    ax.set_ylim(centre[1] - reach, centre[1] + reach)
    ax.set_aspect("equal", adjustable="box")
    ax.grid(visible=False)
    ax.set_xlabel(f"{axis} 1")
    ax.set_ylabel(f"{axis} 2")
