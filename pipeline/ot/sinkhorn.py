"""The entropic coupling: from a problem to potentials whose full-pass error is below the tolerance."""

import math
import time
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import InputError
from pipeline.ot.coupling import BlockReport, EntropicCoupling
from pipeline.ot.descent import Progress, descend
from pipeline.ot.kernel import LOG2E, DotKernel
from pipeline.ot.problem import Problem, cost_std, entropy
from pipeline.ot.report import sharpness, squared_distances
from pipeline.ot.sweep import Sweep, sweep
from pipeline.ot.tiles import Workers


def solve_sinkhorn(
    problem: Problem,
    *,
    tol: float = 1e-3,
    max_passes: int = 20_000,
    g0: Float[Tensor, " m"] | None = None,
    progress: Progress | None = None,
) -> EntropicCoupling:
    """Find potentials whose plan has marginals within `tol` in L1 (Cuturi 2013; arXiv 2506.05526).

    A solve that does not get there within `max_passes` returns `report.converged = False` and the errors it reached.

    Args:
        problem: the block; its eps is absolute.
        tol: L1 error of the target marginal, in (0, 2); the source marginal holds by construction.
        max_passes: passes over the n x m entries before giving up.
        g0: a potential to start from, in units of the cost [m], such as `Coupling.g` of an earlier block.
        progress: called after every pass with the passes so far and the error.

    Raises:
        InputError: eps, tol or max_passes out of range, or a g0 that does not match.
    """
    if not (problem.eps > 0 and math.isfinite(problem.eps)):
        raise InputError(f"eps={problem.eps!r}: the regularisation must be positive and finite; give a larger eps")
    check_limits(tol, max_passes)
    if g0 is not None and (g0.shape != (problem.m,) or not bool(torch.isfinite(g0).all())):
        raise InputError(f"g0: shape {tuple(g0.shape)} for {problem.m} target rows; give one finite value a target row")
    started = time.perf_counter()
    block = Block(problem)
    start = None if g0 is None else g0[block.target]
    last, passes = descend(block.kernel, block.a, block.b, problem.eps, block.std, start, tol, max_passes, progress)
    return finish(block, problem.eps, last, tol, passes, started)


def check_limits(tol: float, max_passes: int) -> None:
    """Refuse a tolerance or a number of passes that no solve can meet, by `InputError`."""
    if not 0 < tol < 2:
        raise InputError(f"tol={tol!r}: an L1 error lies between 0 and 2; give one such as 1e-3")
    if max_passes < 1:
        raise InputError(f"max_passes={max_passes!r}: at least one pass is needed; give a larger number")


class Block:
    """A problem without its rows of zero weight, ready to be solved."""

    def __init__(self, problem: Problem) -> None:
        self.whole = problem
        a, b = problem.weights()
        source, self.target = a.nonzero()[:, 0], b.nonzero()[:, 0]
        self.a, self.b = a[source], b[self.target]
        self.supported = problem
        if len(self.a) < problem.n or len(self.b) < problem.m:
            self.supported = Problem(problem.x0[source], problem.x1[self.target], problem.eps, self.a, self.b)
        self.kernel = DotKernel(self.supported)
        self.std = cost_std(problem.x0, problem.x1, problem.a, problem.b)


def finish(block: Block, eps: float, last: Sweep, tol: float, passes: int, started: float) -> EntropicCoupling:
    """The coupling and its report from the sweep over the final potentials at `eps`."""
    problem = replace(block.whole, eps=eps)
    f, g = block.kernel.f(last.phi, eps), block.kernel.g(last.gamma, eps)
    if block.supported is not block.whole:
        f, g = _extend(problem, block, f, g)
    a, b = block.a, block.b
    assert last.bits is not None
    # <P, C>: the rows' mean logits are phi - H(P(. | i)), and they are s x0 . x1 + gamma.
    mean_logit = (a @ (last.phi - last.bits) - last.columns @ last.gamma).item()
    independent, coupled = squared_distances(block.supported, last.columns, -mean_logit * eps / LOG2E)
    level, partners = sharpness(entropy(a) + (a @ last.bits).item() / LOG2E, a, b)
    error = (last.columns - b).abs().sum().item()
    report = BlockReport(
        method="sinkhorn",
        n=problem.n,
        m=problem.m,
        eps=eps,
        rel_eps=eps / block.std if block.std > 0 else math.inf,
        entropy=level,
        partners=partners,
        source_error=0.0,
        target_error=error,
        cost_independent=independent,
        cost_coupled=coupled,
        passes=passes,
        converged=error < tol,
        seconds=time.perf_counter() - started,
    )
    return EntropicCoupling(problem, f, g, report)


def _extend(
    problem: Problem, block: Block, f: Float[Tensor, " n_support"], g: Float[Tensor, " m_support"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Potentials of the rows of zero weight: the soft-min of the other side's, which all other rows satisfy already."""
    supported = block.supported
    full_g = _softmin(Problem(problem.x1, supported.x0, problem.eps, None, supported.a), f)
    full_g[block.target] = g
    return _softmin(Problem(problem.x0, supported.x1, problem.eps, None, supported.b), g), full_g


def _softmin(problem: Problem, g: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps)."""
    kernel = DotKernel(problem)
    gamma = kernel.gamma(g, problem.eps)
    with Workers(gamma.device) as workers:
        swept = sweep(kernel.bound(gamma, problem.eps), gamma, problem.weights()[0], workers)
    return kernel.f(swept.phi, problem.eps)
