"""The best run on each measure, in numbers and in words, whether or not optimal transport comes out ahead."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from flowpairs.training.report.runs import Evaluation, Run

STEPPED = {"euler": "Euler", "sde": "SDE", "jump": "MeanFlow"}  # solvers whose number of steps is given
OPTIMAL_TRANSPORT = frozenset({"exact", "sinkhorn", "semidiscrete"})


@dataclass(frozen=True)
class Score:
    """One measure of every run, lower is better; None for a run without it."""

    label: str  # the heading of its column, as in "Euler 4"
    values: list[float | None]
    nfe: list[float | None]  # only if the label does not state it

    @property
    def best(self) -> list[int]:
        """The indices of the runs with the lowest finite value; none if only one run has a value."""
        finite = [
            (value, index) for index, value in enumerate(self.values) if value is not None and math.isfinite(value)
        ]
        if len([value for value in self.values if value is not None]) < 2 or not finite:
            return []
        lowest = min(finite)[0]
        return [index for value, index in finite if value == lowest]


def scores(runs: list[Run]) -> list[Score]:
    """List curvature, then the Frechet distance of each solver used for any run, from few to many steps."""
    evaluations = [run.evaluation for run in runs]
    if not any(evaluations):
        return []
    curvature = Score("Curvature", [e.curvature if e else None for e in evaluations], [None] * len(runs))
    # A given number of steps is part of the method; dopri5 chooses its steps, so it has one column for any number.
    solvers = {(f.solver, f.nfe if f.solver in STEPPED else None) for e in evaluations if e for f in e.frechet}
    return [curvature, *(_frechet(evaluations, *solver) for solver in sorted(solvers, key=_few_steps_first))]


def _few_steps_first(solver: tuple[str, float | None]) -> tuple[float, str]:
    name, steps = solver
    return steps or math.inf, name


def _frechet(evaluations: list[Evaluation | None], solver: str, nfe: float | None) -> Score:
    found = [
        next((f for f in e.frechet if f.solver == solver and nfe in (None, f.nfe)), None) if e else None
        for e in evaluations
    ]
    name = solver if nfe is None else f"{STEPPED[solver]}\N{NO-BREAK SPACE}{nfe:g}"
    values, counts = [f.fd if f else None for f in found], [f.nfe if f and nfe is None else None for f in found]
    return Score(name, values, counts)


def headline(runs: list[Run], table: list[Score]) -> str:
    """Compose the title of the page: on how many measures optimal transport won, if the runs can show that."""
    decided = [score for score in table if score.best]
    if not runs:
        return "Pairs, ready to train on"
    if not decided:
        return "One run evaluated, nothing to compare it with yet" if table else "Trained, not evaluated yet"
    ot = {index for index, run in enumerate(runs) if run.train.method in OPTIMAL_TRANSPORT}
    if not ot or not any(run.train.method == "independent" for run in runs):
        return "Training runs compared"
    won = sum(set(score.best) <= ot for score in decided)
    if won == 0:
        return "Optimal-transport pairs won on none of the measures"
    if won == len(decided):
        return f"Optimal-transport pairs won on all {won} measures"
    return f"Optimal-transport pairs won on {won} of {len(decided)} measures"


def sentences(runs: list[Run], table: list[Score]) -> list[str]:
    """Compose a sentence per run, on the measures that it won or that it won none, and one per tie."""
    decided = [score for score in table if score.best]
    out = []
    for index, run in enumerate(runs):
        won = [score for score in decided if score.best == [index]]
        if won:
            out.append(f"{run.name} ({run.train.method} pairs) won on {_listing(_phrases(won, _margin))}.")
        elif run.evaluation and decided and not any(index in score.best for score in decided):
            out.append(f"{run.name} ({run.train.method} pairs) did not win on any measure.")
    for score in decided:
        if len(score.best) > 1:
            names = _listing([runs[index].name for index in score.best])
            [phrase] = _phrases([score], lambda tied: f"({number(tied.values[tied.best[0]])})")
            out.append(f"{names} are level on {phrase}.")
    return out


def caveats(runs: list[Run]) -> list[str]:
    """Compose the caveats of the comparison: runs not evaluated, and conditions that differ between runs."""
    measured = [(run, run.evaluation) for run in runs if run.evaluation]
    out = [
        f"{run.name} has not been evaluated yet: flowpairs evaluate fills its cells."
        for run in runs
        if not run.evaluation
    ]
    conditions: list[tuple[str, list[int] | list[str]]] = [
        ("training steps", [run.train.steps for run, _ in measured]),
        ("global batches", [run.train.batch for run, _ in measured]),
        ("numbers of samples", [evaluation.samples for _, evaluation in measured]),
        ("evaluation seeds", [evaluation.seed for _, evaluation in measured]),
        ("features of the Fréchet distance", [evaluation.features for _, evaluation in measured]),
    ]
    for what, values in conditions:
        if len(set(values)) > 1:
            each = ", ".join(f"{run.name} {value}" for (run, _), value in zip(measured, values, strict=True))
            out.append(f"Not like for like: the {what} differ ({each}).")
    return out


def number(value: float | None) -> str:
    """Format a number with three significant digits, two below 0.001, and grouped thousands; a dash for None."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1e-3:
        return f"{value:#.3g}".rstrip(".")
    return f"{value:.1e}".replace("e-0", "e-") if value else "0"


def _phrases(won: list[Score], remark: Callable[[Score], str]) -> list[str]:
    """Name scores within a sentence, with "Fréchet distance" once: curvature comes first, all others are distances."""
    out: list[str] = []
    distances = 0
    for score in won:
        if score.label == "Curvature":
            name = "curvature"
        else:
            name = score.label if distances else f"Fréchet distance at {score.label}"
            distances += 1
        out.append(f"{name} {remark(score)}")
    return out


def _margin(score: Score) -> str:
    best = score.values[score.best[0]]
    others = [value for index, value in enumerate(score.values) if value is not None and index not in score.best]
    return f"({number(best)} against {number(min(others, key=_nan_last))})"


def _nan_last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _listing(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
