"""The coupling of a wanted sharpness: epsilon by the entropy that it leaves."""

import math
import time

from jaxtyping import Float
from torch import Tensor

from pipeline.errors import InputError
from pipeline.ot.coupling import EntropicCoupling
from pipeline.ot.descent import BLUR, GOOD, SHARPEN, Progress, cold, descend, warm
from pipeline.ot.kernel import LOG2E
from pipeline.ot.problem import Problem, entropy
from pipeline.ot.share import ALONE, Team
from pipeline.ot.sinkhorn import Block, check_limits, finish
from pipeline.ot.surrogate import Surrogate
from pipeline.ot.sweep import Sweep
from pipeline.ot.tiles import Workers

CLOSE = 0.005  # to the sharpness that was asked for
ROUNDS = 6
ROUGH = 0.02  # L1 error at which E is known well enough to choose eps again
HALVINGS = 12  # of a bracket of five octaves: eps to a thousandth
GUESS = 0.02  # L1 error of the stand-in's solutions in the search


def solve_for_entropy(
    problem: Problem,
    sharpness: float,
    *,
    tol: float = 1e-3,
    max_passes: int = 20_000,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> EntropicCoupling:
    """Find the eps whose coupling has the sharpness E = 2 H(P) / (H(a) + H(b)) - 1, and that coupling.

    E grows with eps. It is found on the sparse stand-in of a blurred pass, which needs no further pass, and corrected
    on the stand-in of each solve. `report.entropy` is what was reached, and `report.converged` speaks of the marginals
    alone.

    Args:
        problem: the block; its eps is ignored, and the coupling's problem holds the one found.
        sharpness: in (0, 1); 0 a permutation, 1 independent.
        tol, max_passes, progress, team: as `solve_sinkhorn`, over all passes.

    Raises:
        InputError: a sharpness outside (0, 1), tol or max_passes out of range, or marginals of which one is a point.
    """
    if not 0 < sharpness < 1:
        raise InputError(f"entropy={sharpness!r}: lies between 0 (a permutation) and 1 (independent); give 0.1, say")
    check_limits(tol, max_passes)
    with Workers(problem.x0.device):
        return _solve(Block(problem, team), sharpness, tol, max_passes, progress)


def _solve(block: Block, sharpness: float, tol: float, max_passes: int, progress: Progress | None) -> EntropicCoupling:
    started = time.perf_counter()
    if min(len(block.a), len(block.b)) == 1 or block.std == 0:
        raise InputError(f"entropy={sharpness!r}: every coupling of this block has the same; give rel_eps instead")
    marginals = (entropy(block.a) + entropy(block.b)) / 2
    eps, passes, start, first = BLUR * block.std, 0, None, ROUGH

    def solve(accuracy: float) -> tuple[Sweep, int, float]:
        told = None if progress is None else (lambda new, error, before=passes: progress(before + new, error))
        left = max(1, max_passes - passes)
        kernel, std = block.kernel, block.std
        trail = cold(kernel, eps, std, accuracy, block.team) if start is None else warm(kernel, eps, start)
        last, new = descend(kernel, block.a, block.b, eps, std, trail, accuracy, left, progress=told, team=block.team)
        assert last.bits is not None
        return last, passes + new, (entropy(block.a) + block.share.total(block.a * last.bits) / LOG2E) / marginals - 1

    last, passes, reached = solve(GOOD)
    while reached < sharpness and passes < max_passes:
        # Blurrier than the first pass, where the stand-in says little: bracket, and interpolate E in log eps.
        below, eps = reached, eps * 4
        last, passes, reached = solve(GOOD)
        if reached >= sharpness:
            eps *= 4 ** ((sharpness - reached) / (reached - below))
            last, passes, reached = solve(ROUGH)
            first = tol
            break
    for accuracy in (first, *[tol] * ROUNDS):
        eps, start = _search(block, last, eps, (1 + sharpness) * marginals)
        last, passes, reached = solve(max(tol, accuracy))
        done = (last.columns - block.b).abs().sum().item() < tol and abs(reached - sharpness) < CLOSE
        if done or passes >= max_passes:
            break
    return finish(block, eps, last, tol, passes, started)


def _search(block: Block, last: Sweep, eps: float, wanted: float) -> tuple[float, Float[Tensor, " m"]]:
    """Bisect log eps on the stand-in of the sweep `last` until its entropy is the `wanted` one, in nats."""
    with Workers(block.a.device) as workers:
        surrogate = Surrogate(last, block.a, block.b, block.kernel.log_b, block.share, workers)
        low, high = -math.log2(SHARPEN), 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            solution = surrogate.solve(2.0**-middle, GUESS)
            low, high = (middle, high) if solution.entropy < wanted else (low, middle)
    found = eps * 2.0**middle
    return found, block.kernel.g(solution.gamma, found)
