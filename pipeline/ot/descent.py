"""The path to the potentials: from a blurred problem down to its eps, one full pass a step.

Each step solves a sparse stand-in made by the last pass (see surrogate.py), at a smaller eps where the last pass was
good enough, and measures the result by the next pass, whose error is the one that counts. A step that does not
lower the error is replaced by a plain Sinkhorn step from the best potentials so far, which never raises it.
"""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from pipeline.ot.anderson import Anderson
from pipeline.ot.gaussian import gaussian_potential
from pipeline.ot.kernel import DotKernel
from pipeline.ot.surrogate import Solution, Surrogate
from pipeline.ot.sweep import Sweep, sweep
from pipeline.ot.tiles import Workers

Progress = Callable[[int, float], None]

BLUR = 0.2  # rel_eps where a cold solve starts: the Gaussian potential is good there, and the plan is still broad
SHARPEN = 16.0  # at most this much of eps at a step
GOOD = 0.3  # L1 error below which eps is lowered
FAR = 0.5  # L1 error above which a start is dropped for the Gaussian one
FEW, MANY = 64, 256  # entries of a row that the stand-in keeps, as the few hold nearly all of the plan or not
NEARLY = 0.98
CLOSE = 0.1  # L1 error below which the next pass may be the last and finds the entropies as well
MEMORY = 3
STALLED = 20  # passes without progress after which a solve gives up


def descend(
    kernel: DotKernel,
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    eps: float,
    std: float,
    g0: Float[Tensor, " m"] | None,
    tol: float,
    max_passes: int,
    progress: Progress | None,
) -> tuple[Sweep, int]:
    """Potentials at `eps` whose target marginal is within `tol`, or the best that was reached.

    Returns: the sweep over the final potentials, with its large entries and entropies, and the number of passes.
    """
    blurred = max(eps, BLUR * std)
    gaussian = kernel.gamma(gaussian_potential(kernel.rows, kernel.columns, a, b, blurred) - kernel.shift_g, blurred)
    gamma, level = (gaussian, blurred) if g0 is None else (kernel.gamma(g0, eps), eps)
    keep, may_end = FEW, g0 is not None or tol > CLOSE
    best: Sweep | None = None
    anderson, bar, lowest, stalled = Anderson(MEMORY), math.inf, math.inf, 0
    with Workers(a.device) as workers:
        for passes in range(1, max_passes + 1):
            if passes == max_passes and level != eps:  # the last pass is for the eps that was asked for
                gamma, level, bar = kernel.rescaled(gamma, level / eps), eps, math.inf
            may_end = may_end or passes == max_passes
            current = sweep(kernel.bound(gamma, level), gamma, a, workers, keep=keep, entropies=may_end)
            error = (current.columns - b).abs().sum().item()
            if progress is not None:
                progress(passes, error)
            if passes == 1 < max_passes and g0 is not None and error > FAR:
                gamma, level, may_end = gaussian, blurred, False
                continue
            stalled = 0 if error < lowest else stalled + 1
            lowest = min(lowest, error)
            if error < bar:
                best, bar = current, error
            if level == eps and (error < tol or stalled > STALLED):
                break
            assert best is not None
            if best is current:
                following = max(eps, level / SHARPEN) if error < GOOD else level
                surrogate = Surrogate(current, a, b, kernel.log_b)
                solution, following = _propose(surrogate, level, following, max(0.2 * tol, 0.02 * error))
                keep = MANY if solution.rest > 1 - NEARLY else FEW
                may_end = error < max(CLOSE, tol)
                if following != level:
                    gamma, level, bar, lowest = solution.gamma, following, math.inf, math.inf
                    anderson = Anderson(MEMORY)
                else:
                    gamma = anderson.mix(current.gamma, solution.gamma)
            else:
                gamma = best.gamma + (b / best.columns.clamp(min=1e-30)).log2()
                anderson, bar = Anderson(MEMORY), math.inf
        assert best is not None
        if best.bits is None:
            best = sweep(kernel.bound(best.gamma, eps), best.gamma, a, workers, keep=keep, entropies=True)
            passes += 1
    return best, passes


def _propose(surrogate: Surrogate, level: float, following: float, tol: float) -> tuple[Solution, float]:
    """The stand-in's solution at `following`, or nearer to `level` where it cannot be solved so far down."""
    while True:
        solution = surrogate.solve(level / following, tol)
        if solution.error < max(tol, 0.1) or following == level:
            return solution, following
        following = math.sqrt(level * following) if level / following > 1.5 else level
