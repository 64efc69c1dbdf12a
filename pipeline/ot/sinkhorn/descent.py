"""The descent to the potentials: from a blurred problem to the wanted eps, with one full pass per step.

Each step solves a sparse surrogate made by the last pass (pipeline/ot/sinkhorn/surrogate.py), at a smaller eps where
the last pass was good enough, and measures the result by the next pass, whose error is the one that counts. A step that
does not lower the error is replaced by a plain Sinkhorn step from the best potentials so far, which never raises it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.sinkhorn.anderson import Anderson
from flowpairs.pipeline.ot.sinkhorn.starved import feed
from flowpairs.pipeline.ot.sinkhorn.surrogate import Surrogate
from flowpairs.pipeline.ot.sinkhorn.surrogate_part import Expected
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep
from flowpairs.pipeline.ot.sinkhorn.weak_parts import find_parts, offsets, part_masses
from flowpairs.pipeline.ot.tiles.kernel import Kernel, kernel_of
from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team, of_first
from flowpairs.pipeline.ot.tiles.tiling import Workers

Progress = Callable[[int, float], None]

BLUR = 0.2  # rel_eps where a cold solve starts: the Gaussian potential is good there, and the plan is still broad
HALTED = 0.3  # a step that leaves more than this share of the error makes a solve look for parts that are apart
SHARPEN = 16.0  # largest factor by which eps is lowered in a step
GOOD = 0.3  # L1 error below which eps is lowered
FAR = 0.5  # L1 error above which a start is dropped for the Gaussian one
FEW, MANY = 64, 256  # entries per row that the surrogate keeps: few where they hold nearly all of the plan, else many
SHARED = 2**21  # entries to which many are limited, where that leaves few per row: passes are as many, memory is less
NEARLY = 0.98
NEAR = 1.5  # smallest factor between two eps whose geometric mean is still tried
SLOW = 0.2  # a step that leaves more than this share of the error asks for four times the entries
ENTRIES = 2**23  # largest surrogate of more than many entries per row: half a gigabyte, and still cheaper than a pass
CLOSE = 0.1  # L1 error below which the next pass may be the last and finds the entropies as well
MEMORY = 3
OF_TOL, OF_ERROR = 0.2, 0.02  # error to which a surrogate is solved, in units of tol and of the pass's error
FORETOLD = 4.0  # largest fall of eps for which the rows' log-sums are foretold
STALLED = 20  # passes after which a solve gives up, unless the error fell below PROGRESS times what it was before
PROGRESS = 0.7
SMALL = 2**20  # entries below which a problem without a closed-form start starts from zero
THINNED = 8  # a larger problem starts from one with an eighth of its rows
ROUGH = 0.05  # L1 error to which the thinned problem is solved


@dataclass
class SolveState:
    """The state of a solve before a pass, on which all the rest of it depends, in a few vectors of m."""

    gamma: Float[Tensor, " m"]
    level: float  # eps of gamma
    eps: float  # eps at which to end
    may_end: bool
    guess: bool = False  # whether gamma is another solve's potential, to be dropped where it is far off
    passes: int = 0
    keep: int = FEW
    best: tuple[Tensor, Tensor] | None = None  # gamma and columns of the best pass at this level
    bar: float = math.inf  # error of that pass
    lowest: float = math.inf
    stalled: int = 0
    coarse: bool = False  # whether gamma comes from a step over parts
    foretold: Float[Tensor, " n"] | None = None  # log-sums of the rows at gamma, by the last surrogate
    errors: list[float] = field(default_factory=list)  # of the target marginal, one per pass
    anderson: Anderson = field(default_factory=lambda: Anderson(MEMORY))

    def arrays(self) -> dict[str, Float64[Tensor, "..."]]:
        """Convert the state to float64 tensors."""
        numbers = [self.level, self.eps, self.may_end, self.passes, self.keep, self.bar, self.lowest, self.stalled]
        numbers.append(self.coarse)
        out = {"gamma": self.gamma, "numbers": torch.tensor(numbers, dtype=torch.float64)}
        out["errors"] = torch.tensor(self.errors, dtype=torch.float64)
        if self.best is not None:
            out["best"] = torch.stack(self.best)
        if self.anderson.images:
            out["images"], out["residuals"] = torch.stack(self.anderson.images), torch.stack(self.anderson.residuals)
        return out if self.foretold is None else out | {"foretold": self.foretold}

    @classmethod
    def of(cls, arrays: dict[str, Float64[Tensor, "..."]], device: torch.device) -> "SolveState":
        """Build the state from its `arrays`."""
        level, eps, may_end, passes, keep, bar, lowest, stalled, coarse = arrays["numbers"].tolist()
        state = cls(arrays["gamma"].to(device), level, eps, bool(may_end), passes=int(passes), keep=int(keep))
        state.bar, state.lowest, state.stalled, state.coarse = bar, lowest, int(stalled), bool(coarse)
        state.errors = arrays["errors"].tolist()
        if "best" in arrays:
            gamma, columns = arrays["best"].to(device)
            state.best = gamma, columns
        if "foretold" in arrays:
            state.foretold = arrays["foretold"].to(device)
        for name in ("images", "residuals"):
            if name in arrays:
                setattr(state.anderson, name, list(arrays[name].to(device)))
        return state

    def move(self, gamma: Float[Tensor, " m"], level: float) -> None:
        """Continue at another eps, where no earlier measurement counts."""
        self.gamma, self.level = gamma, level
        self.best, self.bar, self.lowest, self.foretold = None, math.inf, math.inf, None
        self.anderson = Anderson(MEMORY)


Save = Callable[[dict[str, Float64[Tensor, "..."]]], None]


@runtime_checkable
class Aim(Protocol):
    """The protocol of what moves the eps at which a solve is to end, as its passes give information."""

    def met(self, sweep: Sweep) -> bool:
        """Return whether a solve may end with this pass, whose entropies are known."""

    def eps(self, surrogate: Surrogate, state: SolveState) -> float:
        """Choose the eps at which to end, from a pass at `state.level` and its surrogate."""


def cold(kernel: Kernel, eps: float, std: float, tol: float, team: Team = SINGLE) -> SolveState:
    """Build the start of a solve of which no potential is known."""
    blurred = max(eps, BLUR * std)
    gamma = kernel.closed_form(blurred)
    return SolveState(_extended(kernel, blurred, std, team) if gamma is None else gamma, blurred, eps, tol > CLOSE)


def warm(kernel: Kernel, eps: float, g0: Float[Tensor, " m"]) -> SolveState:
    """Build the start of a solve from the potential of an earlier one."""
    return SolveState(kernel.gamma(g0, eps), eps, eps, may_end=True, guess=True)


def descend(
    kernel: Kernel,
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    std: float,
    state: SolveState,
    tol: float,
    max_passes: int,
    *,
    aim: Aim | None = None,
    progress: Progress | None = None,
    save: Save | None = None,
    team: Team = SINGLE,
) -> tuple[Sweep, SolveState]:
    """Find potentials at `state.eps` whose target marginal is within `tol`, or the best that were reached.

    Args:
        kernel: kernel of the problem.
        a: source weights [n], float64.
        b: target weights [m], float64.
        std: standard deviation of the cost.
        state: state to start or to continue from; its eps is the one to end at.
        tol: L1 error of the target marginal at which to end.
        max_passes: passes after which to end.
        aim: moves `state.eps` during the solve.
        progress: called with the passes and the error after each pass.
        save: called with the state's arrays before each pass but the first.
        team: processes that share the rows.

    Returns: the sweep over the final potentials, with its large entries and entropies, and the state with its passes
    and its eps.
    """
    share = RowPartition(len(a), len(b), a.device, team)
    many = min(MANY, max(FEW, SHARED // len(a)))
    most = max(many, min(ENTRIES // len(a), len(b)))
    with Workers(a.device) as workers:
        current: Sweep | None = None
        while state.passes < max_passes:
            last_one = state.passes + 1 == max_passes
            if last_one and state.level != state.eps:  # the last pass is for the wanted eps
                state.move(kernel.rescaled(state.gamma, state.level / state.eps), state.eps)
            state.may_end = state.may_end or last_one
            state.gamma = of_first(team, state.gamma)
            if save is not None and state.passes:
                save(state.arrays())
            logits = kernel.bound(state.gamma, state.level)
            current = surrogate = fed = None  # their entries would lie beside the next pass's
            entropies = state.may_end or aim is not None
            current = kernel.backend.sweep(
                *(logits, state.gamma, a, share, workers), keep=state.keep, entropies=entropies, foretold=state.foretold
            )
            state.passes += 1
            error, state.foretold = current.error(a, b, share), None
            state.errors.append(error)
            if progress is not None:
                progress(state.passes, error)
            if state.guess and not last_one and error > FAR:
                start = cold(kernel, state.eps, std, tol, team)
                state = replace(start, passes=state.passes, errors=state.errors)
                continue
            state.guess = False
            progress_made = error < PROGRESS * state.lowest
            state.stalled = 0 if progress_made else state.stalled + 1
            state.lowest = error if progress_made else state.lowest
            better, before = error < state.bar, state.bar
            if better:
                state.best, state.bar = (current.gamma, current.columns), error
            arrived = state.level == state.eps and (error < tol or state.stalled > STALLED)
            if arrived and (aim is None or aim.met(current)):
                break
            fed = feed(logits, current, a, b, share)
            halted = not better or HALTED * before < error < before
            if halted and fed is None and not (state.coarse or last_one or arrived):
                parts = find_parts(current, b, share)
                if parts is not None:
                    rise = offsets(
                        _part_sums(kernel, logits, current.gamma, a, parts, share, workers), a, part_masses(b, parts)
                    )
                    state.gamma, state.coarse = current.gamma + rise[parts], True
                    state.best, state.bar, state.anderson = None, math.inf, Anderson(MEMORY)
                    state.passes += 1
                    continue
            state.coarse = False
            if better:
                surrogate = Surrogate(current, a, b, kernel.log_b, share, workers, measured=current.masses, fed=fed)
                if aim is not None and error < GOOD and not last_one:
                    state.eps = share.decided(aim.eps(surrogate, state))
                following = max(state.eps, state.level / SHARPEN) if error < GOOD else state.level
                level = state.level
                solution, following = propose(surrogate, level, following, max(OF_TOL * tol, OF_ERROR * error))
                state.keep = next_keep(state.keep, solution.rest, error / before, many, most)
                state.may_end = error < max(CLOSE, tol)
                if following != state.level:
                    state.move(solution.gamma, following)
                else:
                    state.gamma = solution.gamma if fed else state.anderson.mix(current.gamma, solution.gamma)
                if kernel.backend.foretells and aim is None and fed is None and level <= FORETOLD * following:
                    state.foretold = share.gather(surrogate.foretell(state.gamma, current.phi))
            else:
                assert state.best is not None
                gamma, columns = state.best
                state.gamma = gamma + (b / columns.clamp(min=1e-30)).log2()
                state.anderson, state.bar = Anderson(MEMORY), math.inf
        assert state.best is not None
        gamma, _ = state.best
        if current is None or current.gamma is not gamma or current.bits is None:
            logits = kernel.bound(gamma, state.level)
            current = kernel.backend.sweep(logits, gamma, a, share, workers, keep=state.keep, entropies=True)
            state.passes += 1
    return current, state


def _part_sums(
    kernel: Kernel,
    logits: Logits,
    gamma: Float[Tensor, " m"],
    a: Float[Tensor, " n"],
    parts: Int[Tensor, " m"],
    share: RowPartition,
    workers: Workers,
) -> Float[Tensor, "n k"]:
    """Compute log2 of each row's sum over the columns of each part, in one pass altogether."""
    sums, rows = [], torch.arange(len(a), device=a.device)
    for k in range(int(parts.max()) + 1):
        columns = (parts == k).nonzero()[:, 0]
        some = RowPartition(len(a), len(columns), a.device, share.team)
        part = logits.restrict(rows, columns)
        sums.append(some.gather(kernel.backend.sweep(part, gamma[columns], a, some, workers, marginal=False).phi))
    return torch.stack(sums, 1)


def next_keep(keep: int, rest: float, ratio: float, many: int, most: int) -> int:
    """Choose the next surrogate's entries per row, from the share of P that this one lacked and its gain in error."""
    if ratio > SLOW:
        return min(4 * keep, most)
    return max(keep, many) if rest > 1 - NEARLY else keep


def propose(surrogate: Surrogate, level: float, following: float, tol: float) -> tuple[Expected, float]:
    """Solve the surrogate at `following`, or nearer to `level` where it cannot be solved so far down."""
    while True:
        solution = surrogate.solve(level / following, tol)
        if solution.error < max(tol, 0.1) or following == level:
            return solution, following
        following = math.sqrt(level * following) if max(level / following, following / level) > NEAR else level


def thinned(problem: Problem, eps: float, every: int = THINNED) -> Problem:
    """Keep one row and column in `every` of a problem whose weights are all positive."""
    a, b = problem.weights()
    rows, columns = (_some(k, k // every).to(a.device) for k in (problem.n, problem.m))
    a, b = a[rows] / a[rows].sum(), b[columns] / b[columns].sum()
    return Problem(problem.x0[rows], problem.x1[columns], eps, a, b, problem.cost)


def _some(k: int, count: int) -> Int64[Tensor, " count"]:
    """Choose the same random numbers below k each time: an even stride might see only one half of alternating data."""
    return torch.randperm(k, generator=torch.Generator().manual_seed(0))[:count].sort().values


def _extended(kernel: Kernel, eps: float, std: float, team: Team) -> Float[Tensor, " m"]:
    """Compute gamma for a cost without a closed form: zero, or a soft-min over the rows of a thinned problem."""
    problem = kernel.problem
    if problem.n * problem.m <= SMALL:
        return kernel.log_b
    few = thinned(problem, eps)
    a, b = few.weights()
    small = kernel_of(few, kernel.backend)
    last, _ = descend(small, a, b, std, cold(small, eps, std, ROUGH), ROUGH, STALLED)
    turned = replace(problem.turned(few.x0, a), eps=eps)
    kernel_turned = kernel_of(turned, kernel.backend)
    gamma = of_first(team, kernel_turned.gamma(small.f(last.phi, eps), eps))
    share = RowPartition(problem.m, few.n, a.device, team)
    with Workers(a.device) as workers:
        logits = kernel_turned.bound(gamma, eps)
        swept = kernel.backend.sweep(logits, gamma, problem.weights()[1], share, workers, marginal=False)
    return kernel.gamma(kernel_turned.f(share.gather(swept.phi), eps), eps)
