"""Runs that differ by their seed alone, taken together: the mean of a figure over them, and its spread."""

import math
import statistics
from dataclasses import dataclass
from functools import cached_property

from flowpairs.pipeline.config import leaves, read_yaml
from flowpairs.training.report.summaries.runs import Run

UNLIKE = "train.seed", "output.", "cluster."  # keys in which runs of a group may differ


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration; mostly a single run.

    Attributes:
        name: the name of the run, or what the names have in common.
        runs: the runs, in their order.
    """

    name: str
    runs: list[Run]

    @property
    def first(self) -> Run:
        """The first run, whose pictures are shown."""
        return self.runs[0]

    @property
    def method(self) -> str:
        """How the pairs were coupled."""
        return self.first.train.method

    @cached_property
    def evaluated(self) -> list[Run]:
        """The runs with an evaluation."""
        return [run for run in self.runs if run.evaluation]


@dataclass(frozen=True)
class Mean:
    """The mean of a figure over the runs of a group.

    Attributes:
        value: the mean; not finite if that of a run is not.
        spread: the standard deviation over the runs; None for one run.
        count: the number of runs.
    """

    value: float
    spread: float | None
    count: int

    @classmethod
    def of(cls, values: list[float]) -> "Mean | None":
        """Compute it from a value per run; None if there is none."""
        if not values:
            return None
        if not all(map(math.isfinite, values)):
            return cls(math.nan, None, len(values))
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), spread, len(values))

    def level_with(self, other: "Mean") -> bool:
        """Return whether two means may differ by chance: by at most two standard errors of their difference.

        A single run has no spread; its mean is level with an equal one alone.
        """
        error = math.sqrt(sum((mean.spread or 0.0) ** 2 / mean.count for mean in (self, other)))
        return abs(self.value - other.value) <= 2 * error


def group_runs(runs: list[Run]) -> list[RunGroup]:
    """Put runs together that differ by their seed alone, in the order of their first ones.

    Raises:
        InputError: a config.yaml cannot be read.
    """
    groups: dict[object, list[Run]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(_identity(run) or number, []).append(run)
    return [RunGroup(_common_name([run.name for run in alike]), alike) for alike in groups.values()]


def _identity(run: Run) -> tuple[tuple[str, str], ...] | None:
    """Return what runs of a group have in common; None for a run without a config."""
    if run.config is None:
        return None
    kept = ((key, str(value)) for key, value in leaves(read_yaml(run.path / "config.yaml")))
    alike = tuple(sorted(pair for pair in kept if not pair[0].startswith(UNLIKE)))
    return (*alike, ("steps", str(run.train.steps)))


def _common_name(names: list[str]) -> str:
    """Return what names begin with in common, without a separator or a word such as seed at its end."""
    if len(names) == 1:
        return names[0]
    length = next((at for at, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1), 0)
    common = names[0][:length].rstrip("-_/. 0123456789")
    return common.removesuffix("seed").rstrip("-_/. ") or names[0]
