"""The entropic coupling: solves a problem for potentials whose full-pass error is below the tolerance."""

import math
import time
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.backends.choose import BackendName, choose
from flowpairs.pipeline.ot.backends.protocol import TORCH, Backend, Timed
from flowpairs.pipeline.ot.coupling import BlockReport, EntropicCoupling
from flowpairs.pipeline.ot.problem import Problem, Side, entropy
from flowpairs.pipeline.ot.sharpness import spread_of, transport_costs
from flowpairs.pipeline.ot.sinkhorn.descent import Progress, Save, SolveState, cold, descend, warm
from flowpairs.pipeline.ot.sinkhorn.measured_plan import measure_plan
from flowpairs.pipeline.ot.sinkhorn.plan_error import plan_error
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep
from flowpairs.pipeline.ot.tiles.kernel import LOG2E, InnerKernel, Kernel, kernel_of
from flowpairs.pipeline.ot.tiles.nearby import nearby_order
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team, check_team, of_first
from flowpairs.pipeline.ot.tiles.tiling import Workers

MEASURED = 2**20  # entries up to which a plan is measured in float64, or of the rows whose sums are
DIGITS = 1e-4  # largest rounding of float32's inner products, as a share of the transport cost that is read from them
HELD = 0.5  # and as a share of eps tol, above which float32 cannot hold a plan


def solve_sinkhorn(
    problem: Problem,
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
    """Find potentials whose plan has marginals within `tol` in L1 (Cuturi 2013; arXiv 2506.05526).

    A solve that does not reach `tol` within `max_passes` returns `report.converged = False` and the errors it reached.

    Args:
        problem: the block; its eps is absolute.
        tol: L1 error of the target marginal, in (0, 2); the source marginal holds by construction.
        max_passes: passes over the n x m entries before giving up.
        g0: potential to start from, in units of the cost [m], such as `Coupling.g` of an earlier block.
        progress: called after every pass with the passes so far and the error.
        team: processes that solve the block together; each makes this call with the same arguments and gets the same
            result.
        resume: what an earlier solve of the same problem last passed to `save`, to continue from there with the same
            bits.
        save: called before each pass but the first with all that the rest of the solve depends on, some vectors of m.
        backend: name of the backend of passes and draws; see `flowpairs.pipeline.ot.backends.choose.choose`.

    Raises:
        InputError: eps, tol or max_passes out of range, a g0 that does not match, more members than rows can keep busy,
            or a backend that cannot serve the problem.
    """
    check_start(problem, g0)
    check_limits(tol, max_passes)
    started = time.perf_counter()
    with Workers(problem.x0.device):
        problem = precise(problem.measured(team), tol, team)
        block = ProblemArrays(problem, team, choose(backend, problem))
        kernel, eps, std = block.kernel, problem.eps, block.std
        if resume is not None:
            state = SolveState.of(resume, block.a.device)
        elif g0 is None:
            state = cold(kernel, eps, std, tol, team)
        else:
            state = warm(kernel, eps, g0[block.target])
        last, state = descend(
            kernel, block.a, block.b, std, state, tol, max_passes, progress=progress, save=save, team=team
        )
        return finish_coupling(block, state, last, tol, started)


def check_start(problem: Problem, g0: Float[Tensor, " m"] | None) -> None:
    """Refuse an eps that is none, or a potential to start from that does not match, by `InputError`."""
    if not (problem.eps > 0 and math.isfinite(problem.eps)):
        raise InputError(f"eps={problem.eps!r}: the regularisation must be positive and finite; give a larger eps")
    if g0 is not None and (g0.shape != (problem.m,) or not bool(torch.isfinite(g0).all())):
        raise InputError(f"g0: shape {tuple(g0.shape)} for {problem.m} target rows; give one finite value a target row")


def check_limits(tol: float, max_passes: int) -> None:
    """Refuse a tolerance or a number of passes that no solve can meet, by `InputError`."""
    if not 0 < tol < 2:
        raise InputError(f"tol={tol!r}: an L1 error lies between 0 and 2; give one such as 1e-3")
    if max_passes < 1:
        raise InputError(f"max_passes={max_passes!r}: at least one pass is needed; give a larger number")


class ProblemArrays:
    """A problem without its rows of zero weight, ready to be solved by a team."""

    def __init__(self, problem: Problem, team: Team, backend: Backend) -> None:
        self.whole, self.team = problem.measured(team), team
        assert self.whole.cost_moments is not None
        self.std = self.whole.cost_moments.std
        a, b = (of_first(team, weights) for weights in problem.weights())
        self.source, self.target = a.nonzero()[:, 0], b.nonzero()[:, 0]
        self.source = of_first(team, self.source[nearby_order(problem.x0[self.source])])
        self.target = of_first(team, self.target[nearby_order(problem.x1[self.target])])
        self.a, self.b = a[self.source], b[self.target]
        self.sides = Side(self.source, self.a), Side(self.target, self.b)
        self.backend = Timed(backend)
        self.kernel = kernel_of(self.whole, self.backend, self.sides)
        self.share = RowPartition(len(self.a), len(self.b), a.device, team)
        check_team(team.size, len(self.a), len(self.b), a.device)

    @property
    def supported(self) -> Problem:
        """The problem of these rows and columns, a copy of their points."""
        return self.whole.part(*self.sides)


def finish_coupling(
    block: ProblemArrays, state: SolveState, last: Sweep, tol: float, started: float
) -> EntropicCoupling:
    """Build the coupling and its report from the end of a solve and the sweep over its final potentials."""
    eps = state.eps
    problem, share, kernel = replace(block.whole, eps=eps), block.share, block.kernel
    a, b = block.a, block.b
    kernel.forget()  # its passes are over
    assert last.bits is not None
    # <P, c>: the rows' mean logits are phi - H(P(. | i)), and they are -s c + gamma.
    masses = a if last.masses is None else last.masses
    mean_logit = share.total(masses * (last.phi - last.bits)) - (last.columns @ last.gamma).item()
    independent, coupled = transport_costs(kernel, last.columns, -mean_logit * eps / LOG2E)
    nats = entropy(a) + share.total(a * last.bits) / LOG2E
    error = share.decided(last.error(a, b, share))
    phi = share.gather(last.phi)
    small, blurred = problem.n * problem.m <= MEASURED, share.decided(_rounding(kernel) > DIGITS * coupled)
    exact = measure_plan(kernel, last.gamma, phi, eps, MEASURED if not (small or blurred) else problem.n * problem.m)
    source_error, target_error = exact.source_error, error
    if exact.columns is not None:
        target_error, nats = (exact.columns - b).abs().sum().item(), exact.nats
        independent, coupled = transport_costs(kernel, exact.columns, exact.moment)
    f, g = kernel.f(exact.phi, eps), kernel.g(last.gamma, eps)
    if len(f) < problem.n or len(g) < problem.m:
        f, g = _extend(problem, block, f, g)
    else:
        f, g = torch.empty_like(f).index_copy_(0, block.source, f), torch.empty_like(g).index_copy_(0, block.target, g)
    f, g = of_first(block.team, f), of_first(block.team, g)
    spread = spread_of(nats, a, b)
    with Workers(a.device) as workers:
        apart = plan_error(last, a, b, kernel.log_b, share, workers)
    report = BlockReport(
        method="sinkhorn",
        n=problem.n,
        m=problem.m,
        eps=eps,
        rel_eps=eps / block.std if block.std > 0 else math.inf,
        sharpness=spread.sharpness,
        partners=spread.partners,
        partners_of_target=spread.partners_of_target,
        source_error=source_error,
        target_error=target_error,
        plan_error=max(apart, source_error, target_error),
        cost_independent=independent,
        cost_coupled=coupled,
        passes=state.passes,
        converged=error < tol,
        seconds=time.perf_counter() - started,
        errors=state.errors,
    )
    return EntropicCoupling(problem, f, g, report, block.team, kernel.backend)


def precise(problem: Problem, tol: float, team: Team = SINGLE) -> Problem:
    """Convert a float32 problem to float64 where float32's costs, over eps, would cost digits that tol needs.

    It is known before the first pass: rounding moves an entry by about 2^-24 |x0| |x1| / eps, relative, on average, or
    by 2^-24 C / eps where the cost is a formula.
    """
    if problem.x0.dtype == torch.float64 or problem.knows_float32_alone:
        return problem
    held = torch.tensor(int(_rounding(kernel_of(problem)) <= HELD * problem.eps * tol), device=problem.x0.device)
    return problem if of_first(team, held).item() else problem.in_float64()


def _rounding(kernel: Kernel) -> float:
    """Estimate the rounding error of a cost in the tiles, on average."""
    unit = torch.finfo(kernel.problem.x0.dtype).eps / 2
    if isinstance(kernel, InnerKernel):
        sides = (kernel.a, kernel.rows), (kernel.b, kernel.columns)
        source, target = ((weights @ side.each(lambda own: own.norm(dim=1))).item() for weights, side in sides)
        return unit * kernel.factor * source * target
    moments = kernel.problem.measured().cost_moments
    assert moments is not None
    return unit * (abs(moments.mean) + moments.std)


def _extend(
    problem: Problem, block: ProblemArrays, f: Float[Tensor, " n_support"], g: Float[Tensor, " m_support"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Extend the potentials to rows of zero weight by the soft-min, which holds for all other rows already."""
    supported, team, backend = block.supported, block.team, block.kernel.backend
    full_g = softmin(problem.turned(supported.x0, supported.a), f, team, backend)
    full_g[block.target] = g
    return softmin(
        replace(problem, a=None, x1=supported.x1, b=supported.b, cost_moments=None), g, team, backend
    ), full_g


def softmin(
    problem: Problem, g: Float[Tensor, " m"], team: Team = SINGLE, backend: Backend = TORCH
) -> Float[Tensor, " n"]:
    """Compute f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps), in one half-pass.

    Args:
        problem: problem with x0, x1, b and eps.
        g: target potential, in units of the cost [m].
        team: processes that share the rows.
        backend: backend that computes it.
    """
    kernel = kernel_of(problem, backend)
    gamma = kernel.gamma(g, problem.eps)
    share = RowPartition(problem.n, problem.m, gamma.device, team)
    with Workers(gamma.device) as workers:
        logits = kernel.bound(gamma, problem.eps)
        swept = backend.sweep(logits, gamma, problem.weights()[0], share, workers, marginal=False)
    return kernel.f(share.gather(swept.phi), problem.eps)
