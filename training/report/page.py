"""The HTML page: arranges what was read and drawn for the template."""

import statistics
from collections.abc import Callable, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.training.report import figures, pictures, theme, verdict
from flowpairs.training.report.collect import collect
from flowpairs.training.report.runs import Run, TimePointRow, differing_settings
from flowpairs.training.report.stores import PairSamples, StoreSummary

BLOCKS_IN_FULL = 12  # largest number of blocks in the table; more are summarised
BLOCKS_DRAWN = 4  # least number of blocks for a figure; fewer are in the table only
UNDRAWN = "independent", "imported", "semidiscrete", "reflow"  # methods whose blocks have no errors to draw


def write_report(directories: Sequence[AnyPath], output: AnyPath | None = None) -> AnyPath:
    """Write the report of pair stores and training runs as one self-contained HTML file.

    Args:
        directories: the pair stores and training runs, in the order in which they are shown.
        output: the file to write; None: report.html in the first directory.

    Returns:
        The path of the file.

    Raises:
        InputError: a directory is neither store nor run, a file in it cannot be read, or the output cannot be a file.
    """
    page = render(*collect(directories))
    output = output or directories[0] / "report.html"
    if isinstance(output, Path) and (output.is_dir() or not output.parent.is_dir()):
        raise InputError(f"--output {str(output)!r}: not a file in an existing directory; give one, as in report.html")
    write_atomically(output, page.encode())
    return output


def render(stores: list[StoreSummary], runs: list[Run]) -> str:
    """Render the HTML of the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = verdict.number
    table = verdict.scores(runs)
    return environment.get_template("report.html.j2").render(
        light=theme.variables(dark=False),
        dark=theme.variables(dark=True),
        swatches=[Markup(theme.swatch(index)) for index in range(len(runs))],
        headline=verdict.headline(runs, table),
        sentences=verdict.sentences(runs, table),
        caveats=verdict.caveats(runs),
        scores=table,
        runs=runs,
        stores=list(starmap(_store, enumerate(stores))),
        curves=_curves(runs),
        samples=list(starmap(_samples, enumerate(runs))),
        differences=differing_settings(runs),
    )


def _store(index: int, store: StoreSummary) -> dict[str, Any]:
    """Collect what the template shows of a pair store: its totals, its blocks and its first pairs."""
    blocks = store.blocks
    view: dict[str, Any] = {"store": store, "blocks": None, "figures": None, "potentials": _potentials(store)}
    if blocks:
        coupled = statistics.fmean(block.cost_coupled for block in blocks)
        independent = statistics.fmean(block.cost_independent for block in blocks)
        view |= {
            "blocks": blocks if len(blocks) <= BLOCKS_IN_FULL else None,
            "summary": _summary(store) if len(blocks) > BLOCKS_IN_FULL else None,
            "unconverged": [block.block for block in blocks if not block.converged],
            "sharpness": _over([block.sharpness for block in blocks], statistics.median),
            "partners": _over([block.partners for block in blocks], statistics.median),
            "worst_error": _over([e for block in blocks for e in (block.source_error, block.target_error)], max),
            "cost": (independent, coupled, round(100 * (1 - coupled / independent)) if independent else 0),
            "seconds": sum(block.seconds for block in blocks),
            "relabelled": sum(block.relabelled or 0 for block in blocks),
        }
        if len(blocks) >= BLOCKS_DRAWN and store.index.method not in UNDRAWN:
            view["tolerance"] = _tolerance(store)
            view["figures"] = (
                Markup(figures.sharpness_by_block(blocks, f"sharpness-{index}")),
                Markup(figures.errors_by_block(blocks, view["tolerance"], f"errors-{index}")),
            )
    return view | {"kind": pictures.kind(store.index.shape), "pairs": _pairs(index, store.pairs)}


def _potentials(store: StoreSummary) -> dict[str, Any] | None:
    """Summarise how the potentials of a semi-discrete coupling were found and how accurate they are."""
    if store.potentials is None:
        return None
    reports = store.potentials.reports
    needed = {"block", "points", "rounds", "seconds", "converged"}
    if lost := sorted({key for report in reports for key in needed - report.keys()}):
        file = store.path / "potentials" / "semidiscrete.json"
        raise InputError(f"{file}: a report without {', '.join(lost)}; couple into a new directory")
    condition, beta = store.coupling.get("condition", "blind"), store.coupling.get("beta")
    return {
        "data": len(store.potentials.g),
        "problems": len(reports),
        "condition": f"{condition}, beta {beta}" if condition == "extended" else condition,
        "chi2": store.potentials.chi2,
        "mass_error": 100 * max(store.potentials.chi2, 0.0) ** 0.5,
        "eps": store.potentials.eps,
        "rel_eps": store.potentials.rel_eps,
        "points": sum(report["points"] for report in reports),
        "rounds": max(report["rounds"] for report in reports),
        "seconds": sum(report["seconds"] for report in reports),
        "unconverged": [report["block"] for report in reports if not report["converged"]],
    }


def _summary(store: StoreSummary) -> list[tuple[str, float | None, float | None, float | None]]:
    """List (figure, smallest, median, largest) over the blocks."""
    assert store.blocks
    rows = []
    for label, field in {
        "Sharpness E": "sharpness", "Partners a row": "partners", "Source marginal error (L1)": "source_error",
        "Target marginal error (L1)": "target_error", "Error of the plan (L1, estimated)": "plan_error",
        "Cost, independent": "cost_independent",
        "Cost, coupled": "cost_coupled", "Passes": "passes", "Seconds": "seconds",
    }.items():  # fmt: skip
        values = [getattr(block, field) for block in store.blocks]
        rows.append((label, _over(values, min), _over(values, statistics.median), _over(values, max)))
    return rows


def _over(values: Sequence[int | float | None], figure: Callable[[list[float]], float]) -> float | None:
    """Compute a figure over the values that are not None; None if there are none."""
    numbers = [float(value) for value in values if value is not None]
    return figure(numbers) if numbers else None


def _tolerance(store: StoreSummary) -> float | None:
    tol = store.coupling.get("tol")
    return tol if isinstance(tol, int | float) and store.index.method == "sinkhorn" else None


def _pairs(index: int, pairs: PairSamples) -> Any:
    """Draw a store's first pairs for the template: an SVG, image tiles with captions, or strips."""
    match pictures.kind(pairs.x1.shape[1:]):
        case "plane":
            return Markup(figures.plane_pairs(pairs.x0, pairs.x1, f"pairs-{index}"))
        case "image":
            reach0, reach1 = pictures.grey_reach(pairs.x0), pictures.grey_reach(pairs.x1)
            labels = pairs.labels or [None] * len(pairs.data_ids)
            return [
                (pictures.upscale(x0[None], 1, reach0), pictures.upscale(x1[None], 1, reach1), data_id, label)
                for x0, x1, data_id, label in zip(pairs.x0, pairs.x1, pairs.data_ids, labels, strict=True)
            ]
        case _:
            return [
                (side, pictures.strips(x, pictures.strip_reach(x)), pictures.strip_reach(x))
                for side, x in (("x0", pairs.x0), ("x1", pairs.x1))
            ]


def _curves(runs: list[Run]) -> dict[str, Markup | None]:
    """Draw the figures that overlay all runs; None for a figure whose input no run has."""
    numbered = list(enumerate(runs))
    logged = [(index, run) for index, run in numbered if run.metrics]
    evaluated = [(index, run) for index, run in numbered if run.evaluation]
    along_t = [(index, run) for index, run in evaluated if run.evaluation and run.evaluation.curvature_by_t]
    return {
        "loss": Markup(figures.loss_curves(logged)) if logged else None,
        "frechet": Markup(figures.frechet_against_nfe(evaluated)) if evaluated else None,
        "curvature": Markup(figures.curvature_along_t(along_t)) if along_t else None,
    }


def _samples(index: int, run: Run) -> dict[str, Any] | None:
    """Draw one run's samples with every solver, real data in the same form, and its trajectories."""
    if run.samples is None:
        return None
    real, paths = run.samples.real, run.samples.trajectories
    kind = pictures.kind(real.shape[1:])
    grids: list[tuple[str, Any]] = []
    for solver, shown in [*run.samples.by_solver.items(), ("real data", real)]:
        if kind == "plane":
            if shown is real:
                continue  # it lies under the samples of every solver
            drawn: Any = Markup(figures.plane_samples(shown, real, index, f"samples-{index}-{solver}"))
        elif kind == "image":
            drawn = pictures.upscale(shown, 8, reach=1.0)
        else:
            drawn = pictures.strips(shown, pictures.strip_reach(real))
        name = solver.rstrip("0123456789")
        grids.append((solver.replace(name, f"{verdict.STEPPED[name]} ") if name in verdict.STEPPED else solver, drawn))
    return {
        "run": run,
        "index": index,
        "kind": kind,
        "grids": grids,
        "trajectories": None if paths is None else _trajectories(index, kind, paths),
        "times": None if paths is None else paths.shape[1],
        "points": _points(index, run),
    }


def _points(index: int, run: Run) -> list[tuple[TimePointRow, Markup]]:
    """Draw the flow's points over the data at each time point of a chain; empty for other runs."""
    if run.samples is None or run.samples.timepoints is None or run.evaluation is None:
        return []
    out = []
    for number, (point, sides) in enumerate(zip(run.evaluation.time_points, run.samples.timepoints, strict=True)):
        real, led = (side[np.isfinite(side).all(1)] for side in sides)
        name = f"time-{index}-{number}"
        drawn = figures.plane_samples(led, real, index, name, "principal direction")
        out.append((point, Markup(drawn)))
    return out


def _trajectories(index: int, kind: pictures.ImageKind, paths: np.ndarray) -> Any:
    """Draw trajectories as tiles, with a row per sample and a column per time, or as an SVG of paths in a plane."""
    if kind == "image":
        return pictures.upscale(paths.reshape(-1, *paths.shape[2:]), paths.shape[1], reach=1.0)
    axis = "coordinate" if kind == "plane" else "principal direction"
    return Markup(figures.draw_trajectories(paths, index, f"paths-{index}", axis))
