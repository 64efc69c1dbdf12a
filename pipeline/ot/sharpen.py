"""The coupling of a wanted sharpness: epsilon by the entropy that it leaves."""

import math
import time
from dataclasses import astuple, dataclass
from functools import partial

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.errors import InputError
from pipeline.ot.choose import BackendName, choose
from pipeline.ot.coupling import EntropicCoupling
from pipeline.ot.descent import BLUR, GOOD, SHARPEN, SMALL, Progress, Save, Trail, cold, descend, thinned, warm
from pipeline.ot.kernel import LOG2E
from pipeline.ot.problem import Problem, entropy
from pipeline.ot.share import ALONE, Team
from pipeline.ot.sinkhorn import Block, check_limits, finish
from pipeline.ot.surrogate import Surrogate
from pipeline.ot.sweep import Sweep
from pipeline.ot.tiles import Workers

CLOSE = 0.008  # to the sharpness that was asked for
ROUGH = 0.02  # L1 error at which E is known well enough to choose eps again
HALVINGS = 12  # of a bracket of five octaves: eps to a thousandth
GUESS = 0.02  # L1 error of the stand-in's solutions in the search
BROAD = 0.4  # sharpness down to which a thinned problem stands for the whole
POWER = 1.0  # of 1 / eps, like which 1 - E falls where plans are neither sharp nor nearly independent: there it is 2

# What the next solve is for: to see how sharp a blurred plan is, to choose eps by it, and, up to so many times, to end
# with it.
BLURRED, FIRST, LAST = 0, 1, 7
ACCURACY = {BLURRED: GOOD, FIRST: ROUGH}  # L1 errors; the tolerance after that


@dataclass
class Search:
    """Where the search for eps stands."""

    eps: float
    passes: int = 0  # before the solve at hand
    stage: int = BLURRED
    below: float = math.nan  # the sharpness at a quarter of eps, where that was too sharp
    power: float = math.nan  # of broad plans, whose 1 - E falls like that power of 1 / eps


def solve_for_entropy(
    problem: Problem,
    sharpness: float,
    *,
    tol: float = 1e-3,
    max_passes: int = 20_000,
    progress: Progress | None = None,
    team: Team = ALONE,
    resume: dict[str, Float64[Tensor, "..."]] | None = None,
    save: Save | None = None,
    backend: BackendName = "auto",
) -> EntropicCoupling:
    """Find the eps whose coupling has the sharpness E = 2 H(P) / (H(a) + H(b)) - 1, and that coupling.

    E grows with eps. It is found on the sparse stand-in of a blurred pass, which needs no further pass, and corrected
    on the stand-in of each solve. `report.entropy` is what was reached, and `report.converged` speaks of the marginals
    alone.

    Args:
        problem: the block; its eps is ignored, and the coupling's problem holds the one found.
        sharpness: in (0, 1); 0 a permutation, 1 independent.
        tol, max_passes, progress, team, resume, save, backend: as `solve_sinkhorn`, over all passes.

    Raises:
        InputError: a sharpness outside (0, 1), tol or max_passes out of range, or marginals of which one is a point.
    """
    if not 0 < sharpness < 1:
        raise InputError(f"entropy={sharpness!r}: lies between 0 (a permutation) and 1 (independent); give 0.1, say")
    check_limits(tol, max_passes)
    started = time.perf_counter()
    with Workers(problem.x0.device):
        block = Block(problem, team, choose(backend, problem))
        if min(len(block.a), len(block.b)) == 1 or block.std == 0:
            raise InputError(f"entropy={sharpness!r}: every coupling of this block has the same; give rel_eps instead")
        if resume is None:
            search, trail = _first(block, sharpness, tol), None
        else:
            eps, passes, stage, below, power = resume["search"].tolist()
            search = Search(eps, int(passes), int(stage), below, power)
            trail = Trail.of(resume, block.a.device)
        return _search(block, search, trail, sharpness, tol, max_passes, progress, save, started)


def _search(
    block: Block,
    search: Search,
    trail: Trail | None,
    sharpness: float,
    tol: float,
    max_passes: int,
    progress: Progress | None,
    save: Save | None,
    started: float,
) -> EntropicCoupling:
    """Solve at one eps after the other, the next one chosen by what the last one left."""
    kernel, a, b, std, team = block.kernel, block.a, block.b, block.std, block.team
    marginals = (entropy(a) + entropy(b)) / 2
    start = None
    while True:
        accuracy, before = max(tol, ACCURACY.get(search.stage, tol)), search.passes
        if trail is None:
            trail = cold(kernel, search.eps, std, accuracy, team) if start is None else warm(kernel, search.eps, start)
        last, passes = descend(
            kernel,
            a,
            b,
            search.eps,
            std,
            trail,
            accuracy,
            max(1, max_passes - before),
            progress=None if progress is None else partial(_told, progress, before),
            save=None if save is None else partial(_saved, save, search),
            team=team,
        )
        trail, search.passes = None, before + passes
        assert last.bits is not None
        reached = (entropy(a) + block.share.total(a * last.bits) / LOG2E) / marginals - 1
        error = (last.columns - b).abs().sum().item()
        if search.stage == BLURRED and reached < sharpness and search.passes < max_passes:
            # Broader than this pass's plan, where the stand-in says little.
            search.below, search.eps = reached, search.eps * 4
            continue
        if search.stage == BLURRED and not math.isnan(search.below) and reached >= sharpness:
            search.stage, search.power = FIRST, max(0.5, math.log((1 - search.below) / (1 - reached)) / math.log(4))
            search.eps *= ((1 - reached) / (1 - sharpness)) ** (1 / search.power)
            start = kernel.g(last.gamma, search.eps)
            continue
        done = error < tol and abs(reached - sharpness) < CLOSE
        if search.stage >= FIRST and (done or search.passes >= max_passes or search.stage == LAST):
            return finish(block, search.eps, last, tol, search.passes, started)
        search.stage = max(search.stage + 1, FIRST)
        if not math.isnan(search.power):
            search.eps *= ((1 - reached) / (1 - sharpness)) ** (1 / search.power)
            start = kernel.g(last.gamma, search.eps)
            continue
        search.eps, start = _sharpened(block, last, search.eps, (1 + sharpness) * marginals)


def _first(block: Block, sharpness: float, tol: float) -> Search:
    """Where the search begins: at a blurred eps, or where a thinned problem leaves the same mutual information.

    H(a) + H(b) - H(P) = (1 - E) (H(a) + H(b)) / 2 hardly depends on how many points stand for two densities, as long as
    each has many partners. Sharp plans have too few, but show their entropy on the stand-in of a blurred pass.
    """
    a, b, problem = block.a, block.b, block.supported
    small = None if len(a) * len(b) <= SMALL else thinned(problem, 1.0)
    if small is not None:
        information = (1 - sharpness) * (entropy(a) + entropy(b))
        wanted = 1 - information / sum(entropy(weights) for weights in small.weights())
        if wanted > BROAD:
            found = solve_for_entropy(small, wanted, tol=max(tol, ROUGH))
            return Search(found.report.eps or 0.0, stage=FIRST, power=POWER)
    return Search(BLUR * block.std)


def _told(progress: Progress, before: int, passes: int, error: float) -> None:
    progress(before + passes, error)


def _saved(save: Save, search: Search, arrays: dict[str, Float64[Tensor, "..."]]) -> None:
    save({**arrays, "search": torch.tensor(astuple(search), dtype=torch.float64)})


def _sharpened(block: Block, last: Sweep, eps: float, wanted: float) -> tuple[float, Float[Tensor, " m"]]:
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
