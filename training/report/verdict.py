"""Which run won which figure, in numbers and in words, whether or not optimal transport came out ahead."""

import math
from dataclasses import dataclass

from training.report.runs import Evaluation, Run

OPTIMAL_TRANSPORT = frozenset({"exact", "sinkhorn", "semidiscrete"})


@dataclass(frozen=True)
class Score:
    """One figure of every run, lower is better; None where a run has no such figure."""

    label: str  # as a column's head: "Euler 4"
    phrase: str  # within a sentence: "Fréchet distance at Euler 4"
    values: list[float | None]
    nfe: list[int | None]

    @property
    def best(self) -> list[int]:
        """The places of the runs with the lowest figure; nobody wins a race run alone, nor with NaN."""
        finite = [
            (value, place) for place, value in enumerate(self.values) if value is not None and math.isfinite(value)
        ]
        if len([value for value in self.values if value is not None]) < 2 or not finite:
            return []
        lowest = min(finite)[0]
        return [place for value, place in finite if value == lowest]


def scores(runs: list[Run]) -> list[Score]:
    """Curvature, then the Frechet distance of every solver that any run was sampled with, from few to many steps."""
    evaluations = [run.evaluation for run in runs]
    if not any(evaluations):
        return []
    curvature = Score("Curvature", "curvature", [e and e.curvature for e in evaluations], [None] * len(runs))
    # Euler's step count is part of the method; dopri5 chooses its own, so its column holds whatever it took.
    solvers = {(f.solver, f.nfe if f.solver == "euler" else None) for e in evaluations if e for f in e.frechet}
    return [curvature, *(_frechet(evaluations, *solver) for solver in sorted(solvers, key=_few_steps_first))]


def _few_steps_first(solver: tuple[str, int | None]) -> float:
    return solver[1] or math.inf


def _frechet(evaluations: list[Evaluation | None], solver: str, nfe: int | None) -> Score:
    found = [
        next((f for f in e.frechet if f.solver == solver and nfe in (None, f.nfe)), None) if e else None
        for e in evaluations
    ]
    name = f"Euler {nfe}" if solver == "euler" else solver
    return Score(name, f"Fréchet distance at {name}", [f and f.fd for f in found], [f and f.nfe for f in found])


def headline(runs: list[Run], table: list[Score]) -> str:
    """The page's title: how many figures optimal transport won, where the runs allow that question."""
    decided = [score for score in table if score.best]
    if not decided:
        return "One run, nothing to compare it with yet" if runs else "Pairs, ready to train on"
    ot = {place for place, run in enumerate(runs) if run.train.method in OPTIMAL_TRANSPORT}
    if not ot or not any(run.train.method == "independent" for run in runs):
        return "Training runs compared"
    won = sum(set(score.best) <= ot for score in decided)
    if won == 0:
        return "Optimal-transport pairs won none of the figures"
    if won == len(decided):
        return f"Optimal-transport pairs won all {won} figures"
    return f"Optimal-transport pairs won {won} of {len(decided)} figures"


def sentences(runs: list[Run], table: list[Score]) -> list[str]:
    """A plain sentence for each run, on what it won or that it won nothing, and one for each tie."""
    decided = [score for score in table if score.best]
    out = []
    for place, run in enumerate(runs):
        won = [_margin(score) for score in decided if score.best == [place]]
        if won:
            out.append(f"{run.name} ({run.train.method} pairs) won {_listing(won)}.")
        elif run.evaluation and decided and not any(place in score.best for score in decided):
            out.append(f"{run.name} ({run.train.method} pairs) won nothing.")
    for score in decided:
        if len(score.best) > 1:
            names = _listing([runs[place].name for place in score.best])
            out.append(f"{names} are level on {score.phrase} ({number(score.values[score.best[0]])}).")
    return out


def caveats(runs: list[Run]) -> list[str]:
    """What must be known before the runs are compared: whatever was not the same for all of them."""
    out = []
    measured = [run for run in runs if run.evaluation]
    for run in runs:
        if not run.evaluation:
            out.append(f"{run.name} has not been evaluated yet: run `flowpairs evaluate` on it.")
    for what, values in {
        "training steps": {run.name: run.train.steps for run in measured},
        "global batch": {run.name: run.train.batch for run in measured},
        "samples evaluated": {run.name: run.evaluation.samples for run in measured if run.evaluation},
        "evaluation seed": {run.name: run.evaluation.seed for run in measured if run.evaluation},
        "features of the Fréchet distance": {run.name: run.evaluation.features for run in measured if run.evaluation},
    }.items():
        if len(set(values.values())) > 1:
            each = ", ".join(f"{name} {value}" for name, value in values.items())
            out.append(f"Not like for like: {what} differ ({each}).")
    return out


def number(value: float | None) -> str:
    """Three significant digits, thousands grouped; a dash for what is not there."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _margin(score: Score) -> str:
    best = score.values[score.best[0]]
    others = [value for place, value in enumerate(score.values) if value is not None and place not in score.best]
    return f"{score.phrase} ({number(best)} against {number(min(others, key=_nan_last))})"


def _nan_last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _listing(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
