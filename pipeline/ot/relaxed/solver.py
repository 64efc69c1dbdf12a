"""Unbalanced and semi-relaxed couplings: plans that may miss their marginals at a price (Chizat et al. 2018).

The solve takes the way of the balanced one (pipeline/ot/sinkhorn/descent.py): a pass measures the plan, a surrogate of
it is solved, and the next pass measures what came out. Only the marginals are not given: they follow from the
potentials (pipeline/ot/relaxed/marginals.py). What is returned is the balanced coupling between the marginals
that were found, and the mass that the whole plan has.
"""

import math
import time
from dataclasses import astuple, dataclass, field, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.backends.choose import BackendName, choose
from flowpairs.pipeline.ot.coupling import EntropicCoupling
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.relaxed.marginals import Relax, RelaxedMarginals, RelaxedSurrogate
from flowpairs.pipeline.ot.sinkhorn.descent import (
    FEW,
    GOOD,
    MANY,
    OF_ERROR,
    OF_TOL,
    PROGRESS,
    SHARED,
    SHARPEN,
    STALLED,
    Progress,
    Save,
    cold,
    next_keep,
    propose,
)
from flowpairs.pipeline.ot.sinkhorn.solver import ProblemArrays, check_limits, check_start, precise, solve_sinkhorn
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team, distance, of_first
from flowpairs.pipeline.ot.tiles.tiling import Workers

LEAST = 1e-30  # of a marginal's mass, where logarithms are taken


@dataclass
class RelaxedState:
    """The state of a solve before a pass, on which all the rest of it depends."""

    gamma: Float[Tensor, " m"]
    source: Float[Tensor, " n"]  # masses of the rows
    level: float  # eps of both
    passes: int = 0
    keep: int = FEW
    bar: float = math.inf  # error of the best pass at this level
    lowest: float = math.inf
    stalled: int = 0
    best: tuple[Tensor, Tensor] | None = None  # what a plain step from that pass leads to: gamma and source
    errors: list[float] = field(default_factory=list)  # of both marginals, one per pass

    def arrays(self) -> dict[str, Float64[Tensor, "..."]]:
        """Convert the state to float64 tensors."""
        _, _, *numbers, best, errors = astuple(self)
        out = {"gamma": self.gamma, "source": self.source, "numbers": torch.tensor(numbers, dtype=torch.float64)}
        out["errors"] = torch.tensor(errors, dtype=torch.float64)
        return out if best is None else out | {"plain_gamma": best[0], "plain_source": best[1]}

    @classmethod
    def of(cls, arrays: dict[str, Float64[Tensor, "..."]], device: torch.device) -> "RelaxedState":
        """Build the state from its `arrays`."""
        level, passes, keep, bar, lowest, stalled = arrays["numbers"].tolist()
        moved = {name: values.to(device) for name, values in arrays.items()}
        best = (moved["plain_gamma"], moved["plain_source"]) if "plain_gamma" in moved else None
        errors = arrays["errors"].tolist()
        return cls(
            moved["gamma"], moved["source"], level, int(passes), int(keep), bar, lowest, int(stalled), best, errors
        )


def solve_relaxed(
    problem: Problem,
    relax: Relax,
    *,
    tol: float = 1e-3,
    max_passes: int = 20_000,
    g0: Float[Tensor, " m"] | None = None,
    progress: Progress | None = None,
    team: Team = SINGLE,
    resume: dict[str, Float64[Tensor, "..."]] | None = None,
    save: Save | None = None,
    backend: BackendName = "auto",
) -> EntropicCoupling:
    """Find the plan of min <P, C> + eps KL(P | a b^T) + tau_a KL(P 1 | a) + tau_b KL(P^T 1 | b).

    The coupling that is returned is P / M between its own marginals, which are the weights of its `problem`; M is
    `report.mass`. The report's errors are the L1 distances of these marginals from those that the potentials ask for,
    a exp(-f / tau_a) / M and b exp(-g / tau_b) / M, which is what optimal plans satisfy. `report.plan_error` bounds the
    L1 distance of P / M from the optimal plan over M, by the gap between the primal and the dual value, which is M
    times the sum of tau KL(marginal | that which is asked for), and by KL(P | P*) <= gap / eps; where a marginal is
    kept, the estimate of `solve_sinkhorn` for what its error moves is added.

    Args:
        problem: the block; its eps is absolute. Costs count as they are: |x|^2 matters, where marginals are free.
        relax: the prices of the marginals, in units of the cost; of either or both.
        tol: L1 error, summed over both marginals.
        max_passes: passes over the n x m entries before giving up.
        g0: potential to start from, in units of the cost [m].
        progress, team, resume, save, backend: as for `solve_sinkhorn`.

    Raises:
        InputError: as `solve_sinkhorn`; the cost is the dot product, or a price is not positive.
    """
    _check(problem, relax)
    check_start(problem, g0)
    check_limits(tol, max_passes)
    started = time.perf_counter()
    with Workers(problem.x0.device) as workers:
        problem = precise(problem.measured(team), tol, team)
        block = ProblemArrays(problem, team, choose(backend, problem))
        kernel, share, eps = block.kernel, block.share, problem.eps
        marginals = RelaxedMarginals(kernel, block.a, block.b, relax, share)
        state = _begin(block, eps, g0, tol, team) if resume is None else RelaxedState.of(resume, block.a.device)
        many = min(MANY, max(FEW, SHARED // len(block.a)))
        while True:
            if save is not None and state.passes:
                save({**state.arrays(), "source": share.gather(state.source)})
            state.gamma = of_first(team, state.gamma)
            current: Sweep = kernel.backend.sweep(
                kernel.bound(state.gamma, state.level), state.gamma, state.source, share, workers, keep=state.keep
            )
            state.passes += 1
            missed = marginals.implied(state.source, current.phi, state.level)
            wanted = marginals.target(current.gamma, state.level)
            errors = share.total((state.source - missed).abs()), distance(current.columns, wanted)
            error = sum(errors)
            state.errors.append(error)
            if progress is not None:
                progress(state.passes, error)
            state.stalled = 0 if error < PROGRESS * state.lowest else state.stalled + 1
            state.lowest = min(state.lowest, error)
            arrived = state.level == eps and (error < tol or state.stalled > STALLED)
            if arrived or state.passes + 1 >= max_passes:  # the last pass is for the report
                break
            _advance(state, current, marginals, error, eps, tol, many, workers)
        found = _Found(state.source, missed, current.columns, wanted, errors, state.level == eps and error < tol)
        return _finish(block, state, current, found, relax, tol, started, backend)


@dataclass(frozen=True)
class _Found:
    """The marginals of the last pass, those that its potentials ask for, and the L1 distances of both."""

    source: Float[Tensor, " n"]
    source_wanted: Float[Tensor, " n"]
    target: Float[Tensor, " m"]
    target_wanted: Float[Tensor, " m"]
    errors: tuple[float, float]
    converged: bool


def _check(problem: Problem, relax: Relax) -> None:
    if problem.cost == "dot":
        raise InputError("cost='dot': it leaves out |x|^2, which counts where marginals are free; give sqeuclidean")
    for side, price in (("source", relax.source), ("target", relax.target)):
        if not price > 0:
            raise InputError(f"relax.{side}={price!r}: a price of missing a marginal is positive; inf keeps it")


def _begin(block: ProblemArrays, eps: float, g0: Float[Tensor, " m"] | None, tol: float, team: Team) -> RelaxedState:
    if g0 is not None:
        return RelaxedState(block.kernel.gamma(g0[block.target], eps), block.a, eps)
    start = cold(block.kernel, eps, block.std, tol, team)
    return RelaxedState(start.gamma, block.a, start.level)


def _advance(
    state: RelaxedState,
    current: Sweep,
    marginals: RelaxedMarginals,
    error: float,
    eps: float,
    tol: float,
    many: int,
    workers: Workers,
) -> None:
    """Move to the potentials and masses of the next pass: the surrogate's, or a plain step's where that failed."""
    if error >= state.bar:
        assert state.best is not None
        (state.gamma, state.source), state.bar = state.best, math.inf
        return
    surrogate = RelaxedSurrogate(current, state.source, marginals, state.level, workers)
    damped = 1 / (1 + state.level / marginals.relax.target)
    step = (surrogate.b / current.columns.clamp(min=LEAST)).log2() * damped
    state.best = current.gamma + step, marginals.source(current.phi, state.level)
    following = max(eps, state.level / SHARPEN) if error < GOOD else state.level
    solution, following = propose(surrogate, state.level, following, max(OF_TOL * tol, OF_ERROR * error))
    state.keep = next_keep(state.keep, solution.rest, error / state.bar, many, len(marginals.b))
    state.gamma, state.source, state.bar = solution.gamma, solution.source, error
    if following != state.level:
        state.level, state.bar, state.lowest, state.best = following, math.inf, math.inf, None


def _finish(
    block: ProblemArrays,
    state: RelaxedState,
    last: Sweep,
    found: _Found,
    relax: Relax,
    tol: float,
    started: float,
    backend: BackendName,
) -> EntropicCoupling:
    """Build the balanced coupling between the marginals that were found, with the mass of the whole plan."""
    share, eps, whole = block.share, block.whole.eps, block.whole
    f = block.kernel.f(last.phi, eps) + eps * (found.source.clamp(min=LEAST) / block.a).log()
    g = block.kernel.g(last.gamma, eps)
    mass = _mass(block, f, g, relax, eps)
    a, b = (torch.zeros(count, dtype=torch.float64, device=g.device) for count in (whole.n, whole.m))
    a[block.source] = of_first(block.team, share.gather(found.source))
    b[block.target] = of_first(block.team, found.target / found.target.sum())
    own = torch.zeros_like(b)
    own[block.target] = g + eps * (block.b / b[block.target].clamp(min=LEAST)).log()
    weights = whole.a if relax.source == math.inf else a / a.sum(), whole.b if relax.target == math.inf else b
    problem = replace(whole, a=weights[0], b=weights[1], cost_moments=None)
    block.kernel.forget()  # the next solve has its own
    coupling = solve_sinkhorn(problem, tol=tol, max_passes=1, g0=own, team=block.team, backend=backend)
    gap = 0.0
    if relax.source < math.inf:
        gap += relax.source * share.total(_divergence(found.source, found.source_wanted))
    if relax.target < math.inf:
        gap += relax.target * _divergence(found.target, found.target_wanted).sum().item()
    report = replace(
        coupling.report,
        rel_eps=eps / block.std if block.std > 0 else math.inf,
        source_error=max(found.errors[0], coupling.report.source_error),
        target_error=max(found.errors[1], coupling.report.target_error),
        plan_error=min(2.0, share.decided(math.sqrt(2 * max(gap, 0.0) / eps)) + coupling.report.plan_error),
        passes=state.passes + coupling.report.passes,
        converged=found.converged and coupling.report.converged,
        seconds=time.perf_counter() - started,
        mass=share.decided(mass),
        errors=[*state.errors, *coupling.report.errors],
    )
    coupling.backend.seconds += block.backend.seconds
    return EntropicCoupling(coupling.problem, coupling.f, coupling.g, report, block.team, coupling.backend)


def _mass(block: ProblemArrays, f: Float[Tensor, " n"], g: Float[Tensor, " m"], relax: Relax, eps: float) -> float:
    """Compute the mass M of the plan.

    Of f + c and g + d, with c + d = eps log M, both marginals have the mass M: log M = log Z_a - c / tau_a, and as much
    for d, where Z_a = <a, exp(-f / tau_a)>.
    """
    if math.inf in (relax.source, relax.target):
        return 1.0
    low = block.share.each([f[block.share.sections[k]].min() for k in block.share.mine]).min().item()
    rows = torch.zeros_like(block.a)
    own = block.share.rows
    rows[own] = block.a[own] * (-(f[own] - low) / relax.source).exp()
    of_source = math.log(block.share.total(rows)) - low / relax.source
    of_target = torch.logsumexp(block.b.log() - g / relax.target, 0).item()
    return math.exp((relax.source * of_source + relax.target * of_target) / (relax.source + relax.target + eps))


def _divergence(masses: Float[Tensor, " k"], wanted: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Compute the terms of KL(masses | wanted), whose sums are both 1."""
    masses, wanted = masses.clamp(min=LEAST), wanted.clamp(min=LEAST)
    return masses * (masses / wanted).log() - masses + wanted
