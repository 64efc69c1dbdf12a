"""How far a plan is from the one whose marginals are right: an estimate from the last pass.

The marginal error alone does not say it: where parts of a problem exchange little mass, much of the plan has to move to
correct a little of the marginal. The surrogate of the pass knows how mass is exchanged, and its own solution differs
from it by nearly what the solution of the problem would.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.ot.sinkhorn.surrogate import Surrogate
from flowpairs.pipeline.ot.sinkhorn.sweep import Entries, Sweep
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers

KEPT = 32  # entries per row, on average, that the estimate works on
BITS = 64  # smallest entry, in bits below a row's mass
LEFT = 0.25  # share of the marginal error at which the surrogate's solution is good enough


def plan_error(
    sweep: Sweep,
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    log_b: Float[Tensor, " m"],
    share: RowPartition,
    workers: Workers,
) -> float:
    """Estimate the L1 distance between the plan of a pass and the plan of the same form whose target marginal is b.

    Args:
        sweep: the pass, with its entries.
        a: source marginal, which the plan has.
        b: target marginal.
        log_b: log2 b.
        share: partition of the rows among processes.
        workers: the threads.
    """
    assert sweep.entries is not None
    error = sweep.error(a, b, share)
    if error == 0:
        return 0.0
    few = replace(sweep, entries=_largest(sweep.entries, KEPT * len(a), share))
    surrogate = Surrogate(few, a, b, log_b, share, workers, measured=sweep.masses)
    return max(error, surrogate.distance(LEFT * error))


def _largest(entries: Entries, most: int, share: RowPartition) -> Entries:
    """Keep the entries above the smallest power of two that leaves at most `most` of them, over all processes."""
    bits = entries.logits.neg().clamp_(0, BITS - 1).int()
    below = share.team.sum(bits.bincount(minlength=BITS)).cumsum(0)
    kept = (bits < max(1, int((below <= most).sum()))).nonzero()[:, 0]
    return Entries(entries.i[kept], entries.j[kept], entries.logits[kept])
