"""What the template shows of training runs: their curves, their samples and trajectories, and a gallery of all."""

from typing import Any

import numpy as np
from markupsafe import Markup

from flowpairs.training.report import verdict
from flowpairs.training.report.drawing import figures, pictures
from flowpairs.training.report.seeds import RunGroup
from flowpairs.training.report.summaries.runs import Run, TimePointRow

GALLERY = 16  # samples of each run in the gallery
COLUMNS = 8


def curves(groups: list[RunGroup]) -> dict[str, Markup | None]:
    """Draw the figures that overlay all runs; None for a figure whose input no run has."""
    numbered, floor = list(enumerate(groups)), verdict.floor(groups)
    least = floor.value if floor else None
    logged = [(index, group) for index, group in numbered if any(run.metrics for run in group.runs)]
    evaluated = [(index, group) for index, group in numbered if group.evaluated]
    out: dict[str, Markup | None] = {
        "loss": Markup(figures.loss_curves(logged)) if logged else None,
        "frechet": Markup(figures.frechet_against_nfe(evaluated, least)) if evaluated else None,
    }
    for name, label in {"curvature": "E|v − (x1 − x0)|²", "distance": "distance from the chord"}.items():
        drawn = [
            (index, group)
            for index, group in evaluated
            if any(getattr(run.evaluation, f"{name}_by_t") for run in group.evaluated)
        ]
        out[name] = Markup(figures.figure_along_t(drawn, f"{name}_by_t", label, name)) if drawn else None
    return out


def samples_view(index: int, group: RunGroup) -> dict[str, Any] | None:
    """Draw the samples of a group's first run with every solver, real data in the same form, and its trajectories."""
    run = group.first
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
            drawn = pictures.upscale(shown, COLUMNS, reach=1.0)
        else:
            drawn = pictures.strips(shown, pictures.strip_reach(real))
        grids.append((_solver_label(solver), drawn))
    predicted = run.samples.predictions
    return {
        "run": run,
        "index": index,
        "kind": kind,
        "grids": grids,
        "trajectories": None if paths is None else _trajectories(index, kind, paths, "paths"),
        "predictions": None if predicted is None else _trajectories(index, kind, predicted, "predicted"),
        "times": None if paths is None else paths.shape[1],
        "points": _points(index, run),
    }


def gallery(groups: list[RunGroup]) -> list[tuple[str, list[tuple[int, str]]]]:
    """Draw the first samples of every run with each solver that all of them have: (solver, (group, picture) per group).

    The runs start from the same points, if they were evaluated with one seed. Empty unless several runs show images of
    one shape.
    """
    shown = [(index, group.first.samples) for index, group in enumerate(groups) if group.first.samples]
    shapes = {samples.real.shape[1:] for _, samples in shown}
    if len(shown) < 2 or len(shapes) != 1 or pictures.kind(next(iter(shapes))) != "image":
        return []
    solvers = [solver for solver in shown[0][1].by_solver if all(solver in samples.by_solver for _, samples in shown)]
    return [
        (
            _solver_label(solver),
            [(i, pictures.upscale(samples.by_solver[solver][:GALLERY], COLUMNS, 1.0)) for i, samples in shown],
        )
        for solver in solvers
    ]


def made_view(groups: list[RunGroup]) -> list[tuple[str, list[tuple[str, str]]]]:
    """List when and with what each run was trained and evaluated."""
    out = []
    for run in (run for group in groups for run in group.runs):
        made = dict(run.train.made_with)
        if made:
            date = made.pop("date", "")
            evaluated = f", evaluated {run.evaluation.made_with.get('date', '')}" if run.evaluation else ""
            out.append((run.name, [("trained", date + evaluated), *made.items()]))
    return out


def _solver_label(solver: str) -> str:
    name = solver.rstrip("0123456789")
    return solver.replace(name, f"{verdict.STEPPED[name]} ") if name in verdict.STEPPED else solver


def _points(index: int, run: Run) -> list[tuple[TimePointRow, Markup]]:
    """Draw the flow's points over the data at each time point of a chain; empty for other runs."""
    if run.samples is None or run.samples.timepoints is None or run.evaluation is None:
        return []
    out = []
    for number, (point, sides) in enumerate(zip(run.evaluation.time_points, run.samples.timepoints, strict=True)):
        real, led = (side[np.isfinite(side).all(1)] for side in sides)
        drawn = figures.plane_samples(led, real, index, f"time-{index}-{number}", "principal direction")
        out.append((point, Markup(drawn)))
    return out


def _trajectories(index: int, kind: pictures.ImageKind, paths: np.ndarray, name: str) -> Any:
    """Draw trajectories as tiles, with a row per sample and a column per time, or as an SVG of paths in a plane."""
    if kind == "image":
        return pictures.upscale(paths.reshape(-1, *paths.shape[2:]), paths.shape[1], reach=1.0)
    axis = "coordinate" if kind == "plane" else "principal direction"
    return Markup(figures.draw_trajectories(paths, index, f"{name}-{index}", axis))
