"""The best runs on each measure, in numbers and in words, whether or not optimal transport comes out ahead.

Only Frechet distances are counted. Curvature is a property of the pairs more than of the samples: sharp pairs have the
lower one nearly by construction, so it is told apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from flowpairs.training.report.seeds import Mean, RunGroup
from flowpairs.training.report.summaries.runs import Evaluation

STEPPED = {"euler": "Euler", "sde": "SDE", "jump": "MeanFlow"}  # solvers whose number of steps is given
OPTIMAL_TRANSPORT = frozenset({"exact", "sinkhorn", "semidiscrete"})
CURVATURE = "Curvature"


@dataclass(frozen=True)
class Score:
    """One measure of every group of runs, lower is better; None for a group without it."""

    label: str  # the heading of its column, as in "Euler 4"
    means: list[Mean | None]
    nfe: list[float | None]  # only if the label does not state it

    @property
    def best(self) -> list[int]:
        """The indices of the group with the lowest finite mean and of those level with it; none if only one has any."""
        finite = [(mean, index) for index, mean in enumerate(self.means) if mean and math.isfinite(mean.value)]
        if len([mean for mean in self.means if mean]) < 2 or not finite:
            return []
        lowest = min(finite, key=lambda found: found[0].value)[0]
        return [index for mean, index in finite if mean.level_with(lowest)]

    @property
    def decided(self) -> bool:
        """Whether it is a distance that some group won, or several share."""
        return self.label != CURVATURE and bool(self.best)


def scores(groups: list[RunGroup]) -> list[Score]:
    """List curvature, then the Frechet distance of each solver used for any run, from few to many steps."""
    evaluations = [[run.evaluation for run in group.runs if run.evaluation] for group in groups]
    if not any(evaluations):
        return []
    curvature = Score(CURVATURE, [Mean.of([e.curvature for e in of]) for of in evaluations], [None] * len(groups))
    # A given number of steps is part of the method; dopri5 chooses its steps, so it has one column for any number.
    solvers = {(f.solver, f.nfe if f.solver in STEPPED else None) for of in evaluations for e in of for f in e.frechet}
    return [curvature, *(_frechet(evaluations, *solver) for solver in sorted(solvers, key=_few_steps_first))]


def _few_steps_first(solver: tuple[str, float | None]) -> tuple[float, str]:
    name, steps = solver
    return steps or math.inf, name


def _frechet(evaluations: list[list[Evaluation]], solver: str, nfe: float | None) -> Score:
    found = [[f for e in of for f in e.frechet if f.solver == solver and nfe in (None, f.nfe)] for of in evaluations]
    name = solver if nfe is None else f"{STEPPED[solver]}\N{NO-BREAK SPACE}{nfe:g}"
    counts = [Mean.of([f.nfe for f in of]) if nfe is None else None for of in found]
    return Score(name, [Mean.of([f.fd for f in of]) for of in found], [mean.value if mean else None for mean in counts])


def headline(groups: list[RunGroup], table: list[Score]) -> str:
    """Compose the title of the page: on how many distances optimal transport won, if the runs can show that."""
    decided = [score for score in table if score.decided]
    if not groups:
        return "Pairs, ready to train on"
    if not decided:
        return "One run evaluated, nothing to compare it with yet" if table else "Trained, not evaluated yet"
    ot = {index for index, group in enumerate(groups) if group.method in OPTIMAL_TRANSPORT}
    if not ot or not any(group.method == "independent" for group in groups):
        return "Training runs compared"
    won = sum(set(score.best) <= ot for score in decided)
    if won == 0:
        return "Optimal-transport pairs won on none of the Fréchet distances"
    if won == len(decided):
        return f"Optimal-transport pairs won on all {won} Fréchet distances"
    return f"Optimal-transport pairs won on {won} of {len(decided)} Fréchet distances"


def sentences(groups: list[RunGroup], table: list[Score]) -> list[str]:
    """Compose a sentence per group, on the distances that it won or that it won none; on ties; and on curvature."""
    decided = [score for score in table if score.decided]
    out = []
    for index, group in enumerate(groups):
        won = [score for score in decided if score.best == [index]]
        if won:
            out.append(f"{group.name} ({group.method} pairs) won on {_listing(_phrases(won, _margin))}.")
        elif group.evaluated and decided and not any(index in score.best for score in decided):
            out.append(f"{group.name} ({group.method} pairs) did not win on any Fréchet distance.")
    ties: dict[tuple[int, ...], list[Score]] = {}
    for score in decided:
        if len(score.best) > 1:
            ties.setdefault(tuple(score.best), []).append(score)
    for level, tied in ties.items():
        names = _listing([groups[index].name for index in level])
        out.append(f"{names} are level on {_listing(_phrases(tied, _shared))}.")
    for score in table:
        if score.label == CURVATURE and len(score.best) == 1:
            out.append(
                f"{groups[score.best[0]].name} has the lowest curvature {_margin(score)}; it is not counted, since "
                "sharp pairs lower it nearly by construction."
            )
    return out


def caveats(groups: list[RunGroup]) -> list[str]:
    """Compose the caveats of the comparison: runs not evaluated, and conditions that differ between runs."""
    runs = [run for group in groups for run in group.runs]
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


def chance(groups: list[RunGroup]) -> str:
    """Say how much of a difference between the runs may be chance."""
    seeds = {len(group.evaluated) for group in groups if group.evaluated}
    if not seeds or max(seeds) == 1:
        return (
            "Each number comes from one training and one set of samples. Small differences may be noise; further seeds "
            "would tell."
        )
    least = "" if len(seeds) == 1 else f"{min(seeds)} to "
    return (
        f"Means over {least}{max(seeds)} seeds, ± their standard deviation. Means that differ by less than two "
        "standard errors count as level."
    )


def floor(groups: list[RunGroup]) -> Mean | None:
    """Compute the mean Frechet distance of real data from the reference, over the runs that have it."""
    found = [run.evaluation.floor for group in groups for run in group.runs if run.evaluation]
    return Mean.of([value for value in found if value is not None])


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


def shown(mean: Mean | None) -> str:
    """Format a mean, with its spread if it has one."""
    if mean is None or mean.spread is None:
        return number(None if mean is None else mean.value)
    return f"{number(mean.value)} ± {spread(mean)}"


def spread(mean: Mean) -> str:
    """Format the spread of a mean with two significant digits; empty where it has none."""
    if mean.spread is None:
        return ""
    return f"{mean.spread:,.0f}" if mean.spread >= 100 else f"{mean.spread:.2g}"


def _phrases(won: list[Score], remark: Callable[[Score], str]) -> list[str]:
    """Name distances within a sentence, with "Fréchet distance" once."""
    return [
        f"{score.label if number else f'Fréchet distance at {score.label}'} {remark(score)}"
        for number, score in enumerate(won)
    ]


def _margin(score: Score) -> str:
    best = score.means[score.best[0]]
    others = [mean for index, mean in enumerate(score.means) if mean and index not in score.best]
    return f"({shown(best)} against {shown(min(others, key=_nan_last))})"


def _shared(score: Score) -> str:
    """List the means that are level, once if they are equal."""
    return f"({_listing(list(dict.fromkeys(shown(score.means[index]) for index in score.best)))})"


def _nan_last(mean: Mean) -> float:
    return mean.value if math.isfinite(mean.value) else math.inf


def _listing(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
