"""The numbers of a report that do not depend on how a coupling was found."""

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.ot.problem import entropy
from flowpairs.pipeline.ot.tiles.equal_rows import equal_rows
from flowpairs.pipeline.ot.tiles.kernel import InnerKernel, Kernel
from flowpairs.pipeline.ot.tiles.ordered_sums import add_by_index


class Spread(NamedTuple):
    """How many partners rows have in a plan of entropy H(P), in nats."""

    sharpness: float  # E = 2 H(P) / (H(a) + H(b)) - 1; 0 where every coupling is one pair
    partners: float  # exp(H(P) - H(a)): geometric mean over the source rows
    partners_of_target: float  # exp(H(P) - H(b)): geometric mean over the target rows


def spread_of(plan_entropy: float, a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> Spread:
    """Compute the sharpness and the mean numbers of partners from H(P), in nats."""
    source, target = entropy(a), entropy(b)
    level = 2 * plan_entropy / (source + target) - 1 if source + target > 0 else 0.0
    return Spread(level, math.exp(plan_entropy - source), math.exp(plan_entropy - target))


def least_entropy(x: Float[Tensor, "n d"], a: Float[Tensor, " n"]) -> tuple[float, float]:
    """Compute the entropy of the distinct rows, and that of equal rows among themselves, in nats.

    Equal rows share what they get in proportion to their weights, however small eps is.
    """
    first, kind = equal_rows(x)
    distinct = entropy(add_by_index(a.new_zeros(len(first)), kind, a))
    return distinct, entropy(a) - distinct


def transport_costs(kernel: Kernel, target: Float[Tensor, " m"], moment: float) -> tuple[float, float]:
    """Compute E|x0 - x1|^2, or the mean of the user's cost, under the product of the marginals and under a coupling P.

    Args:
        kernel: kernel of the problem.
        target: target marginal that P actually has [m].
        moment: <P, c>, where c is the part of the cost that the kernel's potentials do not absorb.
    """
    if isinstance(kernel, InnerKernel):
        return _squared_distances(kernel, target, moment / kernel.factor)
    moments = kernel.problem.measured().cost_moments
    assert moments is not None
    return moments.mean, moment


def _squared_distances(kernel: InnerKernel, target: Float[Tensor, " m"], coupled_cost: float) -> tuple[float, float]:
    """Compute both mean squared distances from <P, C>, C = -x0 x1^T of the centred points."""
    rows, columns = kernel.rows, kernel.columns
    apart = rows.centre - columns.centre
    source_spread = (kernel.a @ rows.each(lambda own: own.square().sum(1))).item()
    square = columns.each(lambda own: own.square().sum(1))
    independent = source_spread + (kernel.b @ square).item() + (apart @ apart).item()
    drift = 2 * (apart @ columns.mean(target)).item()
    coupled = source_spread + (target @ square).item() + (apart @ apart).item() + 2 * coupled_cost - drift
    return independent, max(0.0, coupled)
