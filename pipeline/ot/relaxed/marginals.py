"""Marginals that a plan may miss at a price: what they are at given potentials, and the surrogate that reaches them.

The relaxed problem is min <P, C> + eps KL(P | a b^T) + tau_a KL(P 1 | a) + tau_b KL(P^T 1 | b) (Chizat et al. 2018).
Its plan is P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps) with the marginals a exp(-f / tau_a) and b exp(-g / tau_b); at
tau = inf a marginal is a or b itself. Shapes of marginals, divided by their sum, do not depend on constants that are
added to f and g; the mass M of the plan follows from them. So the plan is M times a balanced one, between marginals
that have yet to be found.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowpairs.pipeline.ot.sinkhorn.surrogate import TINY, Surrogate
from flowpairs.pipeline.ot.sinkhorn.surrogate_part import SurrogatePart
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep
from flowpairs.pipeline.ot.tiles.kernel import LOG2E, Kernel
from flowpairs.pipeline.ot.tiles.partition import RowPartition, power_of_two
from flowpairs.pipeline.ot.tiles.tiling import Workers


@dataclass(frozen=True)
class Relax:
    """The prices tau of the marginals' divergence, positive, in units of the cost; inf keeps a marginal."""

    source: float = math.inf
    target: float = math.inf


class RelaxedMarginals:
    """The marginals of a relaxed plan, as functions of its potentials, divided by their sums.

    Args:
        kernel: kernel of the problem without its rows and columns of zero weight.
        a: source weights [n], float64; b: target weights [m], float64.
        relax: prices of missing them.
        share: partition of the rows; arrays over rows are right for its own.
    """

    def __init__(
        self, kernel: Kernel, a: Float[Tensor, " n"], b: Float[Tensor, " m"], relax: Relax, share: RowPartition
    ) -> None:
        self.kernel, self.a, self.b, self.relax, self.share = kernel, a, b, relax, share

    def source(self, phi: Float[Tensor, " n"], eps: float) -> Float[Tensor, " n"]:
        """Compute the source marginal of the plan whose rows have the log-sums `phi` at these potentials of columns."""
        if self.relax.source == math.inf:
            return self.a
        return self._source(self.kernel.f(phi, eps) / (self.relax.source + eps))

    def implied(self, source: Float[Tensor, " n"], phi: Float[Tensor, " n"], eps: float) -> Float[Tensor, " n"]:
        """Compute the source marginal that the rows' potential asks for, where rows have the masses `source`."""
        if self.relax.source == math.inf:
            return self.a
        f = self.kernel.f(phi, eps) + eps * (source.clamp(min=TINY) / self.a).log()
        return self._source(f / self.relax.source)

    def target(self, gamma: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
        """Compute the target marginal that the columns' part of the logits asks for."""
        if self.relax.target == math.inf:
            return self.b
        return self.of_target(self.kernel.g(gamma, eps))

    def of_target(self, g: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Compute the target marginal that the potential g asks for."""
        nats = -g / self.relax.target
        masses = self.b * power_of_two((nats - nats.max()) * LOG2E)
        return masses / masses.sum()

    def _source(self, nats: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Give each of this process's rows its weight times exp(-nats), divided by the sum over all rows."""
        rows = self.share.rows
        least = self.share.each([nats[self.share.sections[k]].min() for k in self.share.mine]).min()
        masses = torch.zeros_like(self.a)
        masses[rows] = self.a[rows] * power_of_two((least - nats[rows]) * LOG2E)
        return masses / self.share.total(masses)


class RelaxedSurrogate(Surrogate):
    """The surrogate of a relaxed plan; its solutions have marginals that agree with their potentials.

    Args:
        sweep: the pass that it represents.
        source: masses of the rows in that pass.
        marginals: marginals as functions of the potentials.
        eps: eps of that pass.
        workers: the threads.
    """

    rigid = False

    def __init__(
        self, sweep: Sweep, source: Float[Tensor, " n"], marginals: RelaxedMarginals, eps: float, workers: Workers
    ) -> None:
        self.marginals, self.eps, self.phi = marginals, eps, sweep.phi
        self.g = marginals.kernel.g(sweep.gamma, eps)
        wanted = marginals.target(sweep.gamma, eps)
        super().__init__(sweep, source, wanted, marginals.kernel.log_b, marginals.share, workers)

    def _begin(self, sharpen: float, top: Float[Tensor, " n"]) -> None:
        self.at, self.offset = self.eps / sharpen, sharpen * self.phi + top
        self.damping = 1 / (1 + self.at / self.marginals.relax.target)

    def _wanted(self, x: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        if self.marginals.relax.target == math.inf:
            return self.b
        return self.marginals.of_target(self.g + x * (self.at / LOG2E))

    def _iterate(
        self, v: Float[Tensor, " m"], r: Float[Tensor, "n g"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
        if self.marginals.relax.source == math.inf:
            return super()._iterate(v, r)
        sums, u = torch.ones_like(self.a), torch.zeros_like(self.a)

        def add(part: SurrogatePart) -> None:
            sums[part.rows] = part.times(v, r).clamp(min=TINY)

        list(self.workers.map(add, self.parts))
        self.a = self.marginals.source(self.offset + sums.log2(), self.at)

        def work(part: SurrogatePart) -> Int64[Tensor, " m"]:
            u[part.rows] = self.a[part.rows] / sums[part.rows]
            return part.spread(u, v, r)

        return u, self._sum(work)
