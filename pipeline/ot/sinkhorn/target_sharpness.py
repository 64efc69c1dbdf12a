"""The coupling of a wanted sharpness, with epsilon chosen by the entropy of the plan.

Sharpness E grows with eps, its logit nearly like a multiple of log eps, and a step of eps by a quarter raises the error
of a plan to one or two hundredths. So eps moves during the solve: every pass finds how sharp its plan is, its sparse
surrogate predicts how sharp it will be once the marginals hold, and eps takes a secant step in these coordinates, or
the one that the surrogate calls for where it holds most of the plan. A search therefore takes hardly more passes than a
solve.
"""

import math
import time
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.backends.choose import BackendName, choose
from flowpairs.pipeline.ot.coupling import EntropicCoupling
from flowpairs.pipeline.ot.problem import Problem, entropy
from flowpairs.pipeline.ot.sharpness import least_entropy
from flowpairs.pipeline.ot.sinkhorn.descent import (
    BLUR,
    SHARPEN,
    THINNED,
    Progress,
    Save,
    SolveState,
    cold,
    descend,
    thinned,
)
from flowpairs.pipeline.ot.sinkhorn.solver import ProblemArrays, check_limits, finish_coupling
from flowpairs.pipeline.ot.sinkhorn.surrogate import Surrogate
from flowpairs.pipeline.ot.sinkhorn.surrogate_part import Expected
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep
from flowpairs.pipeline.ot.tiles.kernel import LOG2E
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team
from flowpairs.pipeline.ot.tiles.tiling import Workers

CLOSE = 0.008  # largest difference from the wanted sharpness
STILL = 0.004  # difference within which eps stays
MOVES = 12  # largest number of moves of eps
GUESS = 0.02  # L1 error of the surrogate's solutions in the search
HELD = 0.8  # share of the plan that the surrogate must hold to predict eps
STEPS = 12  # largest number of steps of the search on a surrogate
SLOPE = 1.0  # slope of the logit of E over log eps: between 0.4 and 2 on all data examined
SLOPES = 0.1, 4.0  # bounds of an estimated slope
APART = 0.02  # smallest difference of log eps between two passes that gives a slope

BROAD = 0.4  # sharpness down to which a thinned problem represents the whole
FEWEST, ENOUGH = 64, 512  # rows of a thinned problem
MANY = 4  # smallest number of the problem's rows per row of it
ROUGH = 0.02  # L1 error at which its sharpness is known well enough
PASSES = 40  # largest number of passes over it


@dataclass
class Sharpness:
    """The eps of a wanted sharpness; see `Aim`.

    Args:
        block: the problem.
        wanted: the sharpness.
        slope: slope of the logit of E over log eps, as far as is known.
        estimated: whether the first eps is that of a thinned problem, so that the surrogate is not needed above it.
        moves: number of moves of eps so far.
        log_eps: log eps at which E was last found.
        logit: logit of that E.
    """

    block: ProblemArrays
    wanted: float
    slope: float = SLOPE
    estimated: bool = False
    moves: int = 0
    log_eps: float = math.nan
    logit: float = math.nan

    def __post_init__(self) -> None:
        self.decided = self.block.share.decided
        self.marginals = self.decided((entropy(self.block.a) + entropy(self.block.b)) / 2)

    def met(self, sweep: Sweep) -> bool:
        """See `Aim.met`."""
        assert sweep.bits is not None
        reached = entropy(self.block.a) + self.block.share.total(self.block.a * sweep.bits) / LOG2E
        found = self.decided(reached / self.marginals - 1)
        return abs(found - self.wanted) < CLOSE or self.moves >= MOVES

    def eps(self, surrogate: Surrogate, state: SolveState) -> float:
        """See `Aim.eps`."""
        here = self._of(surrogate.solve(1.0, GUESS))
        log_eps, logit = math.log(state.level), _logit(here)
        if abs(log_eps - self.log_eps) > APART:
            self.slope = min(max((logit - self.logit) / (log_eps - self.log_eps), SLOPES[0]), SLOPES[1])
        self.log_eps, self.logit = log_eps, logit
        if self.estimated and state.level > state.eps and here > self.wanted:
            return state.eps
        if abs(here - self.wanted) < STILL or self.moves >= MOVES:
            return state.level
        self.moves += 1
        step = self.decided((_logit(self.wanted) - logit) / self.slope)
        if step < 0:
            step = -self._down(surrogate, -step)
        return state.level * math.exp(min(step, math.log(SHARPEN)))

    def _down(self, surrogate: Surrogate, step: float) -> float:
        """Choose how far to lower log eps: by `step`, or as the surrogate predicts where it holds most of the plan."""
        low, high = 0.0, math.log(SHARPEN)
        last, logit, at = 0.0, self.logit, min(step, high)
        for _ in range(STEPS):
            solution = surrogate.solve(math.exp(at), GUESS)
            found = self._of(solution)
            if solution.rest > 1 - HELD or abs(found - self.wanted) < STILL / 4 or (at == high and found > self.wanted):
                break
            low, high = (at, high) if found > self.wanted else (low, at)
            slope = (_logit(found) - logit) / (at - last)
            last, logit = at, _logit(found)
            at = at + (_logit(self.wanted) - logit) / slope if slope < 0 else low
            at = self.decided(at if low < at < high else (low + high) / 2)
        return at

    def _of(self, solution: Expected) -> float:
        return self.decided(solution.entropy / self.marginals - 1)


def check_reachable(sharpness: float, source: float, target: float, repeats: float = 0.0) -> None:
    """Refuse a sharpness below the smallest one, which is not 0 where rows repeat or the sides' entropies differ.

    H(P) is at least the larger of the entropies of the sides' distinct rows, since each has a partner, and that of
    equal rows among themselves, which share what they get.

    Args:
        sharpness: wanted E.
        source: H of the source marginal over distinct rows; log n for n of equal weight.
        target: H of the target marginal over distinct rows.
        repeats: what equal rows add to the entropies of both sides.

    Raises:
        InputError: no coupling is so sharp.
    """
    least = 2 * (max(source, target) + repeats) / (source + target + repeats) - 1
    if sharpness <= least:
        equal = f", some of them equal, which adds {repeats:.3g} nats," if repeats > 1e-9 else " of equal weight"
        raise InputError(
            f"sharpness={sharpness:g}: no coupling of two sides of {math.exp(source):,.0f} and {math.exp(target):,.0f} "
            f"rows{equal} is below {least:.3f}; give more, sides nearer in size, or rel_eps"
        )


def solve_for_sharpness(
    problem: Problem,
    sharpness: float,
    *,
    tol: float = 1e-3,
    max_passes: int = 20_000,
    progress: Progress | None = None,
    team: Team = SINGLE,
    resume: dict[str, Float64[Tensor, "..."]] | None = None,
    save: Save | None = None,
    backend: BackendName = "auto",
) -> EntropicCoupling:
    """Find the eps whose coupling has the sharpness E = 2 H(P) / (H(a) + H(b)) - 1, and that coupling.

    `report.sharpness` is the reached sharpness; `report.converged` refers to the marginals alone.

    Args:
        problem: the block; its eps is ignored, and the coupling's problem holds the one found.
        sharpness: wanted E in (0, 1); 0 a permutation, 1 independent.
        tol: L1 error of the target marginal, as for `solve_sinkhorn`.
        max_passes: passes of the whole search before giving up.
        progress: as for `solve_sinkhorn`, over all passes.
        team: as for `solve_sinkhorn`.
        resume: as for `solve_sinkhorn`.
        save: as for `solve_sinkhorn`.
        backend: as for `solve_sinkhorn`.

    Raises:
        InputError: a sharpness outside (0, 1) or that no coupling has, tol or max_passes out of range, or a marginal
            that is concentrated on one point.
    """
    if not 0 < sharpness < 1:
        raise InputError(f"sharpness={sharpness!r}: lies between 0 (a permutation) and 1 (independent); give 0.1, say")
    check_limits(tol, max_passes)
    started = time.perf_counter()
    with Workers(problem.x0.device):
        block = ProblemArrays(problem, team, choose(backend, problem))
        if min(len(block.a), len(block.b)) == 1 or block.std == 0:
            raise InputError(f"sharpness={sharpness!r}: all couplings of this block have the same; give rel_eps")
        (source, more), (target, most) = (
            map(block.share.decided, least_entropy(points, weights))
            for points, weights in ((problem.x0[block.source], block.a), (problem.x1[block.target], block.b))
        )
        check_reachable(sharpness, source, target, more + most)
        if resume is None:
            aim, state = _first(block, sharpness, tol)
        else:
            slope, estimated, moves, log_eps, logit = resume["search"].tolist()
            aim = Sharpness(block, sharpness, slope, bool(estimated), int(moves), log_eps, logit)
            state = SolveState.of(resume, block.a.device)
        last, state = descend(
            block.kernel,
            block.a,
            block.b,
            block.std,
            state,
            tol,
            max_passes,
            aim=aim,
            progress=progress,
            save=None if save is None else partial(_saved, save, aim),
            team=team,
        )
        return finish_coupling(block, state, last, tol, started)


def _first(block: ProblemArrays, wanted: float, tol: float) -> tuple[Sharpness, SolveState]:
    """Build the start of the search: a blurred eps, or that of a thinned problem with the same mutual information.

    H(a) + H(b) - H(P) = (1 - E) (H(a) + H(b)) / 2 hardly depends on how many points represent two densities, as long as
    each has many partners. Sharp plans have too few, but show their entropy on the surrogate of a blurred pass.
    """
    aim, eps = Sharpness(block, wanted), BLUR * block.std
    least = min(len(block.a), len(block.b))
    every = min(max(least // ENOUGH, MANY), THINNED)
    if least // every >= FEWEST:
        few = ProblemArrays(thinned(block.supported, 1.0, every), SINGLE, block.kernel.backend)
        alike = 1 - (1 - wanted) * aim.marginals / ((entropy(few.a) + entropy(few.b)) / 2)
        if aim.decided(alike > BROAD and few.std > 0):
            rough = max(tol, ROUGH)
            small, state = _first(few, alike, rough)
            _, state = descend(few.kernel, few.a, few.b, few.std, state, rough, PASSES, aim=small)
            # slope of the same information over log eps
            aim.slope, aim.estimated, eps = aim.decided(small.slope * alike / wanted), True, aim.decided(state.eps)
    return aim, cold(block.kernel, eps, block.std, tol, block.team)


def _saved(save: Save, aim: Sharpness, arrays: dict[str, Float64[Tensor, "..."]]) -> None:
    search = [aim.slope, aim.estimated, aim.moves, aim.log_eps, aim.logit]
    save({**arrays, "search": torch.tensor(search, dtype=torch.float64)})


def _logit(level: float) -> float:
    level = min(max(level, 1e-6), 1 - 1e-6)
    return math.log(level / (1 - level))
