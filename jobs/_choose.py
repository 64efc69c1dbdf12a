"""What `flowpairs plan CONFIG --choose HOURS` does: forecast a grid of couplings, estimate their worth, propose one.

The grid is that of docs/worth.md, where the same estimates were held against trained networks. Time and memory are
forecast as for a single job, of the sharpest of the Sinkhorn couplings of each n, which takes the most passes. What
fits the budget is tried with the job's own code: PAIRS + HELD_OUT pairs of each are made in this process, from the data
that the forecast has read. A coupling whose solve takes more than WORK is not tried; its figures follow from the trend
over smaller ones (training/metrics/worth_trend.py). So the time is bounded whatever the job: at most 14 candidates, and
as many solves and estimates.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.base.progress import progress, working
from flowpairs.pipeline.blocks.directions import RowSample, fit_features
from flowpairs.pipeline.blocks.features import Features
from flowpairs.pipeline.config import CoupleConfig, CouplingConfig
from flowpairs.pipeline.plan import Forecaster, points_of_solve, survey_plan
from flowpairs.pipeline.solve.inputs import Survey
from flowpairs.pipeline.solve.sampled_pairs import pairs_of_blocks, part_of
from flowpairs.pipeline.store.resume import has_results, output_key
from flowpairs.training.metrics.worth import Worth, measure_worth
from flowpairs.training.metrics.worth_trend import extrapolate

SIZES = 256, 2_048, 16_384, 65_536
EPSILONS = 0.03, 0.1, 0.3  # rel_eps of Sinkhorn couplings
PARTS = 5  # random parts of the data in a trial of a semi-discrete coupling that is too dear itself
PAIRS, HELD_OUT = 1_024, 256  # of an estimate, and that judge it
DIRECTIONS = 64
LEVEL = 0.03  # share by which floors may differ and count as level: estimates from other pairs differ so (measured)
PASSES = 4  # of a Sinkhorn solve, about
WORK = {
    "cpu": 2**36,
    "cuda": 2**42,
}  # most multiplications of a solve that is tried: n = 16,384 in 64 directions on CPUs
FEW = 16_384  # rows of a block where they make no other pairs
EPSILON_KEYS = "rel_eps", "eps", "sharpness"
ROWS = {"cpu": 20_000, "cuda": 80_000}  # most data that are read: a sample may have a few less
FEWER = 4_096  # for a semi-discrete coupling on CPUs, whose trial costs the square of the data

Make = Callable[[list[str]], CoupleConfig]


@dataclass(frozen=True)
class Candidate:
    """A coupling that is considered.

    Attributes:
        method: its method.
        n: rows of a block.
        rel_eps: its regularisation; None where the method has none.
        overrides: what makes the config one of this coupling, for the command line.
        refused: why it does not go with the config, or does not fit the machines; "" where it does.
        hours: forecast; GPU hours where the actors have GPUs, else hours of actors.
        bytes: forecast memory of an actor, of its GPU where it has one.
        worth: figures of its pairs; None where they were not estimated.
        tried: sizes that the figures come from: its own alone, or smaller ones by their trend.
        last: figures of the largest of these where it is smaller; None where the figures are its own.
    """

    method: str
    n: int
    rel_eps: float | None
    overrides: tuple[str, ...]
    refused: str = ""
    hours: float = math.inf
    bytes: int = 0
    worth: Worth | None = None
    tried: tuple[int, ...] = ()
    last: Worth | None = None

    @property
    def name(self) -> str:
        """How a table names it."""
        n = f" n={self.n:,}" if self.method == "sinkhorn" else ""
        return f"{self.method}{n}" + ("" if self.rel_eps is None else f" rel_eps={self.rel_eps:g}")


@dataclass(frozen=True)
class Choice:
    """What was considered, and what is proposed.

    Attributes:
        budget: in hours of `device`.
        device: "GPU" or "actor".
        candidates: all that were considered.
        proposal: one of them.
        directions: principal directions of the estimates.
        captured: the share of the data's variance that they hold.
        seconds: what it took.
        pairs: pairs that an estimate was made from.
        held_out: pairs that the figures were taken on.
        level: share by which floors may differ and count as level.
    """

    budget: float
    device: str
    candidates: list[Candidate]
    proposal: Candidate
    directions: int
    captured: float
    seconds: float
    pairs: int = PAIRS
    held_out: int = HELD_OUT
    level: float = LEVEL


def choose_coupling(make: Make, budget: float, sizes: Sequence[int] = SIZES, work: float | None = None) -> Choice:
    """Propose method, n and sharpness for a budget.

    Args:
        make: makes the config of the job with some overrides.
        budget: GPU hours where the job's actors have GPUs, else hours of its actors.
        sizes: the n that are considered, rising.
        work: multiplications of the longest solve that is tried; None: WORK of the device.

    Raises:
        InputError: a budget that is no positive number or too small for all, or a config that leaves nothing to choose.
    """
    began = time.monotonic()
    if not 0 < budget < math.inf:
        raise InputError(f"--choose={budget:g}: no budget; give a positive number of hours")
    config = make([])
    _refuse(config)
    config, surveyed = survey_plan(config)
    grid = Grid(make, config, surveyed, sizes, work)
    found, device = grid.forecast()
    if all(candidate.refused for candidate in found):
        raise InputError(found[0].refused)
    cheapest = min(found, key=lambda candidate: candidate.hours)
    if cheapest.hours > budget:
        raise InputError(
            f"--choose={budget:g}: the cheapest, {cheapest.name}, takes about {cheapest.hours:.3g} {device} hours; "
            "give more, or a smaller output.pairs"
        )
    found = grid.estimate(found, budget)
    valued = [candidate for candidate in found if candidate.worth is not None]
    if not valued:
        raise InputError(f"--choose={budget:g}: nothing that it pays for can be tried here; choose by docs/worth.md")
    features = grid.features
    share = 1.0 if features.captured is None else features.captured
    return Choice(budget, device, found, best(valued), features.dim, share, time.monotonic() - began)


def best(candidates: Sequence[Candidate]) -> Candidate:
    """Find the cheapest of those whose floor is level with the lowest."""
    floors = [(candidate.worth.floor, candidate) for candidate in candidates if candidate.worth is not None]
    least = min(floor for floor, _ in floors)
    level = [(candidate.hours, floor, candidate) for floor, candidate in floors if floor <= (1 + LEVEL) * least]
    return min(level, key=lambda one: one[:2])[2]


def _refuse(config: CoupleConfig) -> None:
    """Refuse configs among whose like nothing can be chosen."""
    coupling, directory = config.coupling, as_path(config.output.dir)
    if config.source.kind == "previous":
        raise InputError(
            "source.kind='previous': a chain over time has a field for each of its legs, and what pairs are worth is "
            "estimated of one; give two of its time points as data and source.kind=data"
        )
    if coupling.method in ("imported", "reflow"):
        raise InputError(f"coupling.method={coupling.method!r}: its pairs come from elsewhere; --choose is for others")
    given = {"regions": coupling.regions, "relax": coupling.relax, "start": coupling.start, "matrix": coupling.matrix}
    given["condition"] = None if coupling.condition == "blind" else coupling.condition
    for key, value in given.items():
        if value is not None:
            raise InputError(f"coupling.{key}: not part of what --choose compares; remove it to choose")
    if config.output.pairs == 0:
        raise InputError("output.pairs=0: a budget is for pairs; give a number of them")
    if has_results(directory):
        raise InputError(f"{output_key(directory)}: holds pairs already, of a coupling that was chosen; give another")


class Trial(NamedTuple):
    """A coupling that is tried: `size` is the rows of a block or, of a semi-discrete one, its data."""

    method: str
    rel_eps: float | None
    size: int


class Grid:
    """The couplings that are considered for a job.

    Args:
        make: makes the config of the job with some overrides.
        config: the job, with its payload decided.
        surveyed: what is known of its data.
        sizes: the n that are considered, rising.
        work: multiplications of the longest solve that is tried; None: WORK of the device.
    """

    def __init__(
        self, make: Make, config: CoupleConfig, surveyed: Survey, sizes: Sequence[int], work: float | None
    ) -> None:
        import torch

        self._make, self._config, self._surveyed = make, config, surveyed
        self._device, self._threads = "cuda" if torch.cuda.is_available() else "cpu", torch.get_num_threads()
        self._work = WORK[self._device] if work is None else work
        self._forecasters = dict[str, Forecaster]()
        sampled = self._forecaster(config).sampled
        target = sampled.inputs.target
        self._ids = sampled.rows * (2 if config.data.flips else 1)
        legs = () if sampled.source is None else sampled.source.legs
        most = max((max(len(leg.source), len(leg.target)) for leg in legs), default=self._ids)
        limit = min(config.output.pairs, most) if config.two_sided else config.output.pairs
        if target.weights is not None or (sampled.source is not None and sampled.source.weights is not None):
            sizes = [most, *(n for n in sizes if n > most)]  # weights are of all data together
        self._sizes = [n for n in sizes if n <= limit] or [limit]
        with working(f"finding {DIRECTIONS} directions of the data"):
            rows = RowSample(target.rows, np.arange(len(target)), config.data.flips)
            self.features: Features = fit_features([rows], DIRECTIONS)

    def forecast(self) -> tuple[list[Candidate], str]:
        """Forecast every candidate; those that differ in their epsilon alone share the forecast of the sharpest.

        Returns:
            The candidates, and whose hours theirs are: "GPU" or "actor".
        """
        found, device = list[Candidate](), "actor"
        few = max((n for n in self._sizes if n <= FEW), default=self._sizes[0])
        sinkhorn = [("sinkhorn", n, EPSILONS) for n in self._sizes]
        for method, n, epsilons in (("independent", few, (None,)), *sinkhorn, ("semidiscrete", few, (0.0,))):
            same = [Candidate(method, n, eps, tuple(self._overrides(method, n, eps))) for eps in epsilons]
            try:
                config = self._configured(method, n, epsilons[0])
                plan = self._forecaster(config).plan(config)
            except InputError as error:
                found += [replace(candidate, refused=str(error)) for candidate in same]
                continue
            device, memory = "GPU" if plan.gpus_per_actor else device, plan.gpu_bytes or plan.actor_bytes
            found += [replace(candidate, hours=plan.device_hours, bytes=memory) for candidate in same]
        return found, device

    def estimate(self, found: list[Candidate], budget: float) -> list[Candidate]:
        """Estimate what the candidates that the budget pays for are worth, as far as that can be tried."""
        tries = {one: self._tries(one) for one in found if not one.refused and one.hours <= budget}
        todo = dict.fromkeys(trial for every in tries.values() for trial in every)
        worths, failed = dict[Trial, Worth](), dict[Trial, str]()
        with progress("worth", max(1, len(todo))) as show:
            for number, trial in enumerate(todo):
                show(number, f"{trial.method} of {trial.size:,}")
                try:
                    worths[trial] = self._worth(trial)
                except JobError as error:
                    failed[trial] = str(error)
        return [self._valued(one, tries[one], worths, failed) if tries.get(one) else one for one in found]

    def _valued(
        self, candidate: Candidate, tries: list[Trial], worths: dict[Trial, Worth], failed: dict[Trial, str]
    ) -> Candidate:
        """Return a candidate with its figures, or with why it has none."""
        if lost := [failed[trial] for trial in tries if trial in failed]:
            return replace(candidate, refused=lost[-1])
        sizes, own = tuple(trial.size for trial in tries), self._size(candidate)
        every = [worths[trial] for trial in tries]
        if sizes[-1] == own:
            return replace(candidate, worth=every[-1], tried=sizes)
        data = max(sizes[-1], min(own, self._ids))  # of a block, which has none twice
        return replace(candidate, worth=extrapolate(sizes, every, data), tried=sizes, last=every[-1])

    def _size(self, candidate: Candidate) -> int:
        """Return what says how large a coupling is: rows of a block or, of a semi-discrete one, all data."""
        return self._ids if candidate.method == "semidiscrete" else candidate.n

    def _tries(self, candidate: Candidate) -> list[Trial]:
        """List what is tried for a candidate: itself, or couplings of smaller sizes, rising."""
        method, eps, own = candidate.method, candidate.rel_eps, self._size(candidate)
        sampled = self._forecasters[method].sampled
        held, width = sampled.most, sampled.space.map.dim
        chi2 = self._configured(method, candidate.n, eps).coupling.chi2

        def fits(size: int, solves: int = 1) -> bool:
            entries = PASSES * min(size, held) if method == "sinkhorn" else points_of_solve(size, chi2)
            return (size <= held or sampled.complete) and solves * entries * size * width <= self._work

        if method == "independent" or fits(own):
            return [Trial(method, eps, own)]
        if method == "semidiscrete":
            return [Trial(method, eps, size) for size in SIZES if size < min(own, held) and fits(size, PARTS)]
        return [Trial(method, eps, size) for size in self._sizes if size < own and fits(size)]

    def _worth(self, trial: Trial) -> Worth:
        """Make pairs of a coupling, of blocks spread over the job, and estimate what they are worth."""
        import torch

        (method, eps, size), own = trial, (self._threads, self._device)
        semidiscrete, count = method == "semidiscrete", PAIRS + HELD_OUT
        n = count // PARTS if semidiscrete else size
        config = self._configured(method, n, eps, max(count, self._config.output.pairs))
        job, number = self._forecasters[method].sampled.job(config), -(-count // n)
        if semidiscrete and size < self._ids:
            made = [pairs_of_blocks(part_of(job, size, part), [part], n, *own) for part in range(PARTS)]
        else:
            # Spread over epochs, as data come again in a later one; a semi-discrete coupling has none.
            full = number if semidiscrete else max(number, config.output.pairs // job.blocks.n)
            blocks = np.linspace(0, full - 1, number).astype(int).tolist()
            made = [pairs_of_blocks(job, blocks, -(-count // number), *own)]
        x0, x1 = (self.features.of_rows(np.concatenate(side)[:count]) for side in zip(*made, strict=True))
        return measure_worth(torch.from_numpy(x0), torch.from_numpy(x1), HELD_OUT)[1]

    def _forecaster(self, config: CoupleConfig) -> Forecaster:
        """Return what forecasts jobs of a method, with the data that it reads for the first of them."""
        method = config.coupling.method
        if method not in self._forecasters:
            few = method == "semidiscrete" and self._device == "cpu"
            self._forecasters[method] = Forecaster(config, self._surveyed, FEWER if few else ROWS[self._device])
        return self._forecasters[method]

    def _configured(self, method: str, n: int, eps: float | None, pairs: int | None = None) -> CoupleConfig:
        """Make the config of a coupling, with the payload of the job and, where given, another number of pairs."""
        output = self._config.output if pairs is None else self._config.output.model_copy(update={"pairs": pairs})
        return self._make(self._overrides(method, n, eps)).model_copy(update={"output": output})

    def _overrides(self, method: str, n: int, eps: float | None) -> list[str]:
        """List what makes the job's config one of a coupling, and drops keys that its method does not have."""
        config, coupling = self._config, self._config.coupling
        lines = [f"coupling.method={method}", f"coupling.n={n}"]
        if eps is not None:
            lines.append(f"coupling.rel_eps={eps:g}")
        if not config.two_sided and method != "semidiscrete" and n > self._ids and coupling.resample is None:
            lines.append("coupling.resample=repeat")
        least = CouplingConfig.model_fields["chi2"].default
        others = {
            **{f"coupling.{key}=null": eps is None and getattr(coupling, key) is not None for key in EPSILON_KEYS},
            f"coupling.chi2={least:g}": method != "semidiscrete" and coupling.chi2 != least,
            "coupling.backend=auto": method != "sinkhorn" and coupling.backend != "auto",
            "cluster.actors_per_block=1": method != "sinkhorn" and config.cluster.actors_per_block > 1,
            "features.pca=null": method == "independent" and config.features.pca is not None,
        }
        return lines + [line for line, needed in others.items() if needed]
