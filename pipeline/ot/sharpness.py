"""The numbers of a report that do not depend on how a coupling was found."""

import math

from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.ot.costs.cost import centred
from flowpairs.pipeline.ot.problem import Problem, entropy
from flowpairs.pipeline.ot.tiles.kernel import InnerKernel, Kernel


def sharpness(plan_entropy: float, a: Float[Tensor, " n"], b: Float[Tensor, " m"]) -> tuple[float, float]:
    """Compute E = 2 H(P) / (H(a) + H(b)) - 1 and the geometric mean number of partners, from H(P) in nats.

    E is 0 where each marginal is concentrated on one point and every coupling is one pair.
    """
    mean_entropy = (entropy(a) + entropy(b)) / 2
    level = plan_entropy / mean_entropy - 1 if mean_entropy > 0 else 0.0
    return level, math.exp(plan_entropy - mean_entropy)


def transport_costs(kernel: Kernel, target: Float[Tensor, " m"], moment: float) -> tuple[float, float]:
    """Compute E|x0 - x1|^2, or the mean of the user's cost, under the product of the marginals and under a coupling P.

    Args:
        kernel: kernel of the problem.
        target: target marginal that P actually has [m].
        moment: <P, c>, where c is the part of the cost that the kernel's potentials do not absorb.
    """
    if isinstance(kernel, InnerKernel):
        return _squared_distances(kernel.problem, target, moment / kernel.factor)
    moments = kernel.problem.measured().cost_moments
    assert moments is not None
    return moments.mean, moment


def _squared_distances(problem: Problem, target: Float[Tensor, " m"], coupled_cost: float) -> tuple[float, float]:
    """Compute both mean squared distances from <P, C>, C = -x0 x1^T of the centred points."""
    a, b = problem.weights()
    (centre0, rows), (centre1, columns) = centred(problem.x0, a), centred(problem.x1, b)
    apart = centre0 - centre1
    source_spread = (a @ rows.square().sum(1)).item()
    square = columns.square().sum(1)
    independent = source_spread + (b @ square).item() + (apart @ apart).item()
    drift = 2 * (apart @ (columns.T @ target)).item()
    coupled = source_spread + (target @ square).item() + (apart @ apart).item() + 2 * coupled_cost - drift
    return independent, coupled
