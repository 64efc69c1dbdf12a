"""The semi-discrete coupling (arXiv 2509.25519): one potential per datum, which holds for noise not seen in the solve.

The dual is E_x[-eps log sum_j b_j exp((g_j + <x, y_j>) / eps)] + <b, g>, whose gradient is b less the masses of the
data. Each round draws fresh points, measures the masses at the current potential, and solves the sparse surrogate of
the same pass (pipeline/ot/sinkhorn/surrogate.py) for the potential that would be right for just these points. That is a
Newton step without a step size, with the noise of so few points; the average over the rounds is nearly the potential of
all points together. Points are fresh, so the masses of the next round are an unbiased test of it, and the solve ends
there.

At eps = 0 and little above, the points are smoothed, since hard cells have no surrogate: few points have more than one
datum that they could go to, and the masses of the data could not be had exactly from them. The smoothing starts broad,
where fewer points are needed, and is lowered while it costs more chi-square than remains to be gained. The shares at
the wanted eps, measured in the same pass, decide when the solve ends.
"""

import math
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.backends.choose import BackendName, choose_for_products
from flowpairs.pipeline.ot.semidiscrete.point_pass import PointPass, Shares, point_pass
from flowpairs.pipeline.ot.semidiscrete.targets import PointSource, Targets
from flowpairs.pipeline.ot.sinkhorn.surrogate import Surrogate
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep
from flowpairs.pipeline.ot.tiles.kernel import LOG2E
from flowpairs.pipeline.ot.tiles.tiling import Workers

BLUR = 0.2  # rel_eps of the first round: the Gaussian potential is good there
SHARPEN = 16.0  # largest factor by which eps is lowered in a step
SMOOTH = 0.06  # rel_eps of the first smoothing, where eps is much smaller
FARTHER = 2.5  # least factor between a smoothing and eps, that the entries at the one show the shares at the other
MISSED = 1e-3  # largest share of a point that the entries may leave out of that
BEARABLE, BEARABLE_NOW = 0.25, 0.15  # largest cost of smoothing, as a share of the wanted and of the current chi-square
ROUGH = 1.0  # chi-square above which a round replaces the average instead of joining it
MOMENTS = 2**14  # points by which the source's moments are estimated
INNER = 0.2  # L1 error of a surrogate's solution, in units of its points' error by chance
SHOWN = 1.5  # times N / chi2
FEW, MANY = 16, 64  # entries that are worth keeping per point: with too few, cells a little further off are missed
SHALLOW, DEEP = 6.0, 60.0  # bounds of the depth that is found for that
NEXT = 0.25  # smallest share of its chi-square that a round leaves
CERTAIN = 12.0  # a round has so many points that chance moves its chi-square by a 12th of the wanted one
ROUND = 2**18  # points of a round beyond which it has no more than that takes: what it finds must fit in memory
LEAST = 1e-30  # of a datum's mass, so that a datum without mass can be reached
SIGMAS = 2.0  # the wanted chi-square lies this many deviations above the estimate
WORSE = 2.0  # a step after which the chi-square is so many times what it was is taken back
REACH, WIDER = 0.25, 2.0  # by what the reach of a step, in bits of a datum's score, shrinks then, and grows otherwise
UNUSED = 1e-3  # points' worth of probability below which a datum counts as one that no noise chose
STALLED = 20  # rounds without progress after which a solve gives up

RoundProgress = Callable[[int, int, float], None]
Save = Callable[[dict[str, Float64[Tensor, "..."]]], None]


@dataclass(frozen=True)
class SemidiscreteReport:
    """How a potential was found and how good it is.

    chi2 is the unbiased estimate of sum_j (p_j - b_j)^2 / b_j from points that the potential has not seen, at the
    wanted eps; its root is the root mean square, over data, of the relative error of their masses.
    """

    data: int  # N
    eps: float  # in units of the cost
    rel_eps: float  # eps / std(C)
    smoothing: float  # eps that the potential was found at; above eps where that is small or 0
    chi2: float
    chi2_error: float  # standard deviation of that estimate
    least_mass: (
        float  # of a datum in the last pass, in units of its weight; by chance as well, where its points are few
    )
    greatest_mass: float
    unused: (
        int  # data that none of the last pass's points chose, or had as much as 1 / 1000 of a point's probability for
    )
    unused_by_chance: float  # how many these would be on average, if every datum had its weight of the noise
    points: int  # source points drawn in all
    rounds: int  # passes
    converged: bool
    seconds: float


@dataclass(frozen=True)
class Semidiscrete:
    """A potential g of all data, float64 [N], with mean zero under b, and its report."""

    g: Float[Tensor, " N"]
    report: SemidiscreteReport


@dataclass
class Ascent:
    """The state of a solve before a round, on which all the rest of it depends."""

    g: Float[Tensor, " N"]
    level: float  # eps of the next pass
    smoothing: float  # eps to which the rounds descend
    points: int = 0
    rounds: int = 0
    weight: float = 0.0  # number of points that are averaged in g
    lowest: float = math.inf
    stalled: int = 0
    depth: float = 10.0  # bits below 1 that the probability of a kept entry may lie
    reach: float = math.inf  # bits by which a step may move a datum's score
    bar: float = math.inf  # chi-square, at the level, of `best`
    best: Float[Tensor, " N"] | None = None  # the potential from which the last step was taken

    def arrays(self) -> dict[str, Float64[Tensor, "..."]]:
        """Convert the state to float64 tensors."""
        _, *numbers, best = astuple(self)
        out = {"g": self.g, "numbers": torch.tensor(numbers, dtype=torch.float64)}
        return out if best is None else out | {"best": best}

    @classmethod
    def of(cls, arrays: dict[str, Float64[Tensor, "..."]], device: torch.device) -> "Ascent":
        """Build the state from its `arrays`."""
        level, smoothing, points, rounds, weight, lowest, stalled, depth, reach, bar = arrays["numbers"].tolist()
        state = cls(arrays["g"].to(device), level, smoothing, int(points), int(rounds), weight, lowest, int(stalled))
        state.depth, state.reach, state.bar = depth, reach, bar
        state.best = arrays["best"].to(device) if "best" in arrays else None
        return state


def solve_semidiscrete(
    targets: Targets,
    source: PointSource,
    eps: float,
    *,
    chi2: float = 0.05,
    max_rounds: int = 10_000,
    g0: Float[Tensor, " N"] | None = None,
    scale: float | None = None,
    progress: RoundProgress | None = None,
    resume: dict[str, Float64[Tensor, "..."]] | None = None,
    save: Save | None = None,
    backend: BackendName = "auto",
) -> Semidiscrete:
    """Find the potential at which the data get their weights from fresh points, within `chi2`.

    Args:
        targets: the data, and the team that shares them; each member makes the same call and gets the same bits.
        source: source of the points.
        eps: absolute regularisation, 0 or more; `semidiscrete_cost_std` converts a relative one.
        chi2: wanted chi-square of the data marginal, confirmed on fresh points at two standard deviations.
        max_rounds: passes before giving up.
        g0: potential to start from, such as `Coupling.g` of a block over all data [N].
        scale: unit of the report's rel_eps; None: std(C) of this problem.
        progress: called after each round with the number of rounds, their points, and the chi-square.
        resume: what an earlier solve of the same problem last passed to `save`, to continue from there with the same
            bits.
        save: called before each round but the first with all that the rest of the solve depends on.
        backend: as for `point_pass`.

    Raises:
        InputError: eps, chi2 or max_rounds out of range, a g0 that does not match, or a backend that cannot serve.
    """
    if not (eps >= 0 and math.isfinite(eps)):
        raise InputError(f"eps={eps!r}: the regularisation must be finite and not negative; give 0 or more")
    if not 1e-6 <= chi2 < 1:  # N / chi2 points are drawn
        raise InputError(f"chi2={chi2!r}: give a chi-square between 1e-6 and 1, such as 0.05")
    if max_rounds < 1:
        raise InputError(f"max_rounds={max_rounds!r}: at least one pass is needed; give a larger number")
    given = targets.count if targets.kind is None else len(targets.kind)
    if g0 is not None and (g0.shape != (given,) or not bool(torch.isfinite(g0).all())):
        raise InputError(f"g0: shape {tuple(g0.shape)} for {given} data; give one finite value a datum")
    started, device = time.perf_counter(), targets.device
    choose_for_products(backend, device)
    with Workers(device) as workers:
        std = semidiscrete_cost_std(targets, source)
        state = Ascent.of(resume, device) if resume is not None else _begin(targets, source, eps, std, g0)
        while True:
            if save is not None and state.rounds:
                save(state.arrays())
            count, small = _points(targets, state, chi2), 2.0**-state.depth
            wanted = eps if state.level == state.smoothing else state.level
            seen = point_pass(
                targets, source, state.points, count, state.g, state.level, small, workers, wanted, backend
            )
            state.points += seen.points
            state.rounds += 1
            soft, found = (chi_square(targets, shares, seen.points) for shares in (seen.soft, seen.wanted))
            error = _chance(targets.count, found, seen.points)
            if progress is not None:
                progress(state.rounds, state.points, found)
            first = state.stalled < 0  # chi-squares of broader levels do not compare
            state.stalled = 0 if first or found < state.lowest else state.stalled + 1
            state.lowest = found if state.stalled == 0 else state.lowest
            state.stalled = -1 if state.level > state.smoothing else state.stalled
            measured = state.level == state.smoothing and seen.wanted.missed < MISSED
            converged = measured and found + SIGMAS * error <= chi2
            if converged or state.stalled > STALLED or state.rounds == max_rounds:
                break
            _advance(targets, state, seen, found, soft, chi2, eps, workers)
            del seen  # whose entries would lie beside the next pass's
    report = SemidiscreteReport(
        data=given,
        eps=eps,
        rel_eps=_relative(eps, std if scale is None else scale),
        smoothing=state.level,
        chi2=found,
        chi2_error=error,
        **_extremes(targets, seen),
        points=state.points,
        rounds=state.rounds,
        converged=converged,
        seconds=time.perf_counter() - started,
    )
    # The pass that decided had the shares of its scores, in which the smoothing adds log b to the potential.
    return Semidiscrete(targets.spread(_shifted(targets, state.g, state.level - eps)), report)


def _relative(eps: float, scale: float) -> float:
    return eps / scale if scale > 0 else math.inf


def semidiscrete_cost_std(targets: Targets, source: PointSource) -> float:
    """Compute the standard deviation of the cost between the source and the data, the unit of a relative eps."""
    return targets.cost_std(targets.points(source, 0, MOMENTS))


def chi_square(targets: Targets, shares: Shares, points: int) -> float:
    """Estimate sum_j (p_j - b_j)^2 / b_j without bias from shares of some points (arXiv 2509.25519, section 3.2)."""
    total = (shares.masses * points).square() - shares.squares
    return targets.share.total(total / targets.b) / (points * (points - 1)) - 1


def _extremes(targets: Targets, seen: PointPass) -> dict[str, Any]:
    """Collect the masses of the data that are farthest from their weights, and the number of unused data."""
    masses = targets.share.gather(seen.wanted.masses)
    ratio, alike = masses / targets.b, torch.ones_like(masses)
    if targets.kind is not None:
        alike = targets.kind.bincount(minlength=targets.count).double().to(masses.device)
    unused = masses * seen.points < UNUSED * alike
    none = torch.exp(-seen.points * targets.b / alike)
    return {
        "least_mass": ratio.min().item(),
        "greatest_mass": ratio.max().item(),
        "unused": round((alike * unused).sum().item()),
        "unused_by_chance": (alike * none).sum().item(),
    }


def _chance(count: int, chi2: float, points: int) -> float:
    """Bound the standard deviation of that estimate: a U-statistic, the means of whose kernel spread by chi2."""
    level = max(chi2, 0.0)
    return math.sqrt(4 * level / points + 2 * count * (1 + level) / points**2)


def _begin(targets: Targets, source: PointSource, eps: float, std: float, g0: Float[Tensor, " N"] | None) -> Ascent:
    if std == 0:  # all data are equal: any potential will do
        return Ascent(torch.zeros_like(targets.b), eps or 1.0, eps or 1.0)
    smoothing = _smoothing(SMOOTH * std, eps)
    if g0 is not None:
        start = targets.centred(targets.gathered(g0.double().to(targets.device)))
        return Ascent(_shifted(targets, start, eps - smoothing), smoothing, smoothing)
    level = max(smoothing, BLUR * std)
    g = targets.centred(targets.start(targets.points(source, 0, MOMENTS), level))
    return Ascent(targets.share.gather(g), level, smoothing)


def _smoothing(level: float, eps: float) -> float:
    """Smooth at `level`, or not at all where eps is not much smaller."""
    return level if level >= FARTHER * eps else eps


def _shifted(targets: Targets, g: Float[Tensor, " N"], smoothing: float) -> Float[Tensor, " N"]:
    """Add smoothing log b to a potential, centred; equal weights leave it as it is."""
    if smoothing == 0 or targets.b.max() == targets.b.min():
        return g
    return targets.centred(g + smoothing * targets.b.clamp(min=LEAST).log())


def _points(targets: Targets, state: Ascent, chi2: float) -> int:
    """Choose the next round's number of points: two per datum, or as many as its test takes; fewer while far off.

    Among many data a round has less than a point per datum. The potential of so few points is far off, but their
    average is not.
    """
    aim = max(chi2, state.lowest * NEXT) if state.lowest < math.inf else chi2
    enough = math.ceil(CERTAIN * math.sqrt(2 * targets.count) / aim)
    far = state.level > state.smoothing or ROUGH <= state.lowest < math.inf
    return min(max(targets.count, 1024), enough) if far else max(min(2 * targets.count, ROUND), enough)


def _advance(
    targets: Targets,
    state: Ascent,
    seen: PointPass,
    found: float,
    soft: float,
    chi2: float,
    eps: float,
    workers: Workers,
) -> None:
    """Move to the potential of the next round: the average of this round's and the earlier ones' estimates."""
    cost, bearable = found - soft, max(BEARABLE * chi2, BEARABLE_NOW * found)
    if state.level == state.smoothing and cost > bearable:  # what smoothing costs grows with its square
        less = max(bearable / cost, 1 / SHARPEN)
        state.smoothing, state.weight = _smoothing(state.smoothing * math.sqrt(less), eps), state.weight * less
    following = max(state.smoothing, state.level / SHARPEN)
    if state.best is not None and soft > WORSE * state.bar + SIGMAS * _chance(targets.count, soft, seen.points):
        state.g, state.best, state.weight = state.best, None, 0.0
        state.reach, state.level = REACH * min(state.reach, state.depth), following
        return
    state.best, state.bar, state.reach = state.g, max(soft, 0.0), WIDER * state.reach
    own = _solve(targets, state, seen, following, workers)
    # So many points have a rough average by chance, where there are less than their data; more points will help it.
    by_chance = SHOWN * targets.count / state.weight if state.weight > 0 else 0.0
    if found > max(ROUGH, by_chance) or state.level > 2 * following:
        state.weight = 0.0
    if state.level > 2 * following:
        state.best = None
    # An average over k points has a chi-square of at most about N / k by chance. An average that has more weighs only
    # as many points as would explain it.
    state.weight = min(state.weight, SHOWN * targets.count / max(soft, LEAST))
    state.g = (state.weight * state.g + seen.points * own) / (state.weight + seen.points)
    state.weight += seen.points
    state.g = targets.share.gather(state.g)
    state.level = following
    kept = targets.share.team.sum(torch.tensor(len(seen.entries.i), device=own.device)).item() / seen.points
    if seen.wanted.missed >= MISSED:
        state.depth = min(1.5 * state.depth, DEEP)
    elif not FEW <= kept <= MANY:
        state.depth = min(max(state.depth * (1.5 if kept < FEW else 0.8), SHALLOW), DEEP)


def _solve(targets: Targets, state: Ascent, seen: PointPass, eps: float, workers: Workers) -> Float[Tensor, " N"]:
    """Solve for the potential at `eps` that gives every datum its weight from the points of this pass alone.

    The surrogate's rows are the data and its columns the points, so that its iterations exchange one sum per point.
    """
    log_b, sharpen = targets.b.log2(), state.level / eps
    masses = seen.soft.masses.clamp(min=LEAST)
    even = torch.full((seen.points,), 1 / seen.points, dtype=torch.float64, device=log_b.device)
    plan = Sweep(even.log2(), masses, even, entries=seen.entries)
    standin = Surrogate(plan, targets.b, even, even.log2(), targets.share, workers, measured=masses)
    # The entries' logits are those of the pass, log b + g / (eps ln 2), less the log of their datum's mass.
    chance = math.sqrt(2 * targets.count / (math.pi * seen.points))
    before = log_b + state.g * (LOG2E / state.level) - masses.log2()
    after = before * sharpen + standin.scalings(sharpen, min(INNER / 2, INNER * chance)).rows
    if state.reach < math.inf:
        moved = targets.share.gather(after - log_b - (before + masses.log2() - log_b) * sharpen)
        off = moved - moved.median()  # a constant that is common to all scores has no effect
        after += off.clamp(-state.reach, state.reach) - off
    g = torch.zeros_like(log_b)
    g[targets.share.rows] = ((after - log_b) * (eps / LOG2E))[targets.share.rows]
    return targets.centred(g)
