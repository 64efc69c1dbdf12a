"""One pass of source points over all targets: the mass of each target, and the largest probabilities.

Points come in batches, of which each member of the team makes a part. A member computes the scores of a batch with its
own targets, in tiles of torch or by the fused kernels. The members exchange a maximum and a log-sum per section and
point, so that all know every point's normaliser; then each member sums the masses of its own targets. Scores are base-2
logits, for the reason given in pipeline/ot/tiles/kernel.py.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.backends.choose import BackendName, choose_for_products
from flowpairs.pipeline.ot.semidiscrete.entry_buffer import EntryBuffer
from flowpairs.pipeline.ot.semidiscrete.fused_scores import FusedScores
from flowpairs.pipeline.ot.semidiscrete.targets import PointSource, Targets
from flowpairs.pipeline.ot.semidiscrete.tiled_scores import TiledScores
from flowpairs.pipeline.ot.sinkhorn.sweep import Entries
from flowpairs.pipeline.ot.tiles.partition import UNIT, power_of_two, to_fixed_point
from flowpairs.pipeline.ot.tiles.tiling import Workers


@dataclass(frozen=True)
class Shares:
    """What the targets got of the points, at one eps; a process fills in only its own targets.

    Attributes:
        masses: mean probability of each target over the points [N].
        squares: sum of the squared probabilities, without those that are not kept [N].
        missed: bound on the mean probability that a point gives to targets that are not counted.
    """

    masses: Float[Tensor, " N"]
    squares: Float[Tensor, " N"]
    missed: float = 0.0


@dataclass(frozen=True)
class PointPass:
    """The result of a pass.

    Attributes:
        points: number of points.
        soft: the targets' shares at the eps of the pass.
        wanted: their shares at the wanted eps, of the same scores.
        entries: i target, j point, logits log2 of the probability of j among the points of i; sorted by i.
    """

    points: int
    soft: Shares
    wanted: Shares
    entries: Entries


def point_pass(
    targets: Targets,
    source: PointSource,
    first: int,
    points: int,
    g: Float[Tensor, " N"],
    eps: float,
    small: float,
    workers: Workers,
    wanted: float,
    backend: BackendName = "auto",
) -> PointPass:
    """Pass points `first` to `first + points` of the source over all targets.

    Args:
        targets: data of the problem.
        source: source of the problem.
        first: number of the first point.
        points: number of points.
        g: potential, float64 [N], in units of the cost; only this process's targets matter.
        eps: absolute epsilon, positive.
        small: smallest probability of the entries that are kept one by one, hence at most 1 / small of them per point.
        workers: the threads.
        wanted: eps of the shares that decide, at most `eps`; 0 for the cells. Scores stay as they are, so that in terms
            of the potential (eps - wanted) log b is added to g.
        backend: what computes scores; "auto" takes the fused kernels on a GPU that they serve, else torch.

    Raises:
        InputError: a backend that cannot serve these targets.
    """
    kind = FusedScores if choose_for_products(backend, targets.device) == "triton" else TiledScores
    scores, found = kind(targets, g, eps, small, points), EntryBuffer(targets.device)
    size = scores.batch
    # What a batch leaves goes into memory that is there: in a hole between what batches free, it would keep them apart.
    best = torch.empty(points, dtype=torch.float64, device=targets.device)
    batches = [targets.points(source, first, size)]
    for start in range(0, points, size):
        after = range(start, points)[size : 2 * size]

        def prepare(after: range = after) -> None:
            if after:
                batches.append(targets.points(source, first + after.start, len(after)))

        tops, sums = scores.first_look(batches.pop(), prepare, workers)
        phi, top, won = _settle(targets, scores.sections, tops, sums)
        for some in scores.second_look(phi, won, start, workers):
            found.add(some)
        best[start : start + size] = (top - phi).exp2()
    given = scores.given()
    del scores, tops, sums  # as large as the entries, which are about to be in memory twice
    p, hits = given.masses / points, given.hits.double()
    soft = decisive = Shares(p, given.squares)
    if wanted == 0:
        decisive = Shares(hits / points, hits)
    elif wanted < eps:
        decisive = _sharpened(targets, found, best, small, eps / wanted)
    return PointPass(points, soft, decisive, found.sorted(points * p))


def _sharpened(
    targets: Targets, found: EntryBuffer, best: Float[Tensor, " points"], small: float, sharpen: float
) -> Shares:
    """Compute the shares at 1 / sharpen times the eps of the pass, from the entries that it found.

    Entries that are not kept have probabilities below `small`, so that at the smaller eps they are nearly nothing.

    Args:
        best: the largest probability of each point, over all targets.
    """
    points = len(best)

    def weights(point: Int[Tensor, " k"], share: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        # At most 1 / count each, so that a point's weights sum to at most 1.
        return power_of_two((share.double() / best[point]).clamp(max=1.0).log2() * sharpen) / targets.count

    # In fixed point the sums are exact, hence the same for any number of members, threads and any order.
    total = best.new_zeros(points, dtype=torch.int64)
    masses, squares = (torch.zeros_like(targets.b, dtype=torch.int64) for _ in range(2))
    for _, point, share in found.runs():
        total.index_add_(0, point.long(), to_fixed_point(weights(point.long(), share)))
    sums = targets.share.masses(total)
    for target, point, share in found.runs():
        probabilities = weights(point.long(), share) / sums[point.long()]
        masses.index_add_(0, target.long(), to_fixed_point(probabilities / points))
        squares.index_add_(0, target.long(), to_fixed_point(probabilities.square() / points))
    missed = ((small / best).clamp(max=1.0) ** (sharpen - 1) / best).mean().item()
    return Shares(masses.double() / UNIT, squares.double() / UNIT * points, missed)


def _settle(
    targets: Targets, section: list[int], tops: Float[Tensor, "tiles r"], sums: Float[Tensor, "tiles r"]
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"], Bool[Tensor, "tiles r"]]:
    """Compute the points' log-sums and largest scores over all targets, and in which of this process's tiles it is.

    The members exchange a maximum and a log-sum per section and point.
    """
    share = targets.share
    stack = tops.new_zeros(2, len(share.sections), tops.shape[1])
    for k in share.mine:
        tiles = slice(section.index(k), section.index(k) + section.count(k))
        stack[0, k] = top = tops[tiles].amax(0)
        stack[1, k] = top + (sums[tiles] * (tops[tiles] - top).exp2()).sum(0).log2()
    best, log_sums = share.team.sum(stack)
    top, winner = best.max(0)
    phi = top + (log_sums - top).exp2().sum(0).log2()
    won = (tops == top) & (torch.tensor(section, device=top.device)[:, None] == winner)
    return phi, top, won & (won.cumsum(0) == 1)
