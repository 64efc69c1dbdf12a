"""The Gibbs kernel of a problem, as base-2 logits computed a tile at a time.

Inside the solver everything is in base 2: with s = log2(e) / eps and the cost split into C_ij = c_ij + p_i + q_j,

    logits_ij = -s c_ij + gamma_j,  gamma_j = s (g_j - q_j) + log2 b_j,  phi_i = log2 sum_j 2^logits_ij = s (p_i - f_i).

Base 2 because exp2, unlike exp, does not slow down where it underflows, which is where most entries lie at small eps.
Where c is an inner product, it is that of the centred points, since an offset of the data only moves the potentials but
would cost float32 digits, and one matrix product with one more column gives the logits.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.ot.backends.protocol import TORCH, Backend
from flowpairs.pipeline.ot.costs.cost import tile
from flowpairs.pipeline.ot.problem import Problem, Side
from flowpairs.pipeline.ot.sinkhorn.gaussian_potential import gaussian_potential
from flowpairs.pipeline.ot.tiles.centred_points import centred
from flowpairs.pipeline.ot.tiles.logits import CostLogits, InnerLogits, Logits

LOG2E = 1 / math.log(2)
NEVER = -1e30  # a logit that stands for zero probability and, unlike -inf, survives subtraction


class Kernel(ABC):
    """The geometry of a problem as the solver needs it, at any eps.

    Args:
        problem: problem with the points, of which the kernel may have some, in another order.
        a: weights of the kernel's rows, float64 [n].
        b: weights of its columns, float64 [m].
        p: part of the cost that f absorbs, float64 [n].
        q: part of the cost that g absorbs, float64 [m].
        backend: backend that reduces the logits.
    """

    def __init__(
        self,
        problem: Problem,
        a: Float[Tensor, " n"],
        b: Float[Tensor, " m"],
        p: Float[Tensor, " n"],
        q: Float[Tensor, " m"],
        backend: Backend,
    ) -> None:
        self.problem, self.a, self.b, self.p, self.q, self.backend = problem, a, b, p, q, backend
        self.log_b = torch.log2(b).clamp(min=NEVER)

    def gamma(self, g: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
        """Convert the potential g, in units of the cost, to the columns' part of the logits."""
        return (g.double() - self.q) * (LOG2E / eps) + self.log_b

    def g(self, gamma: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
        """Convert the columns' part of the logits to the potential g, in units of the cost."""
        return (gamma - self.log_b) * (eps / LOG2E) + self.q

    def f(self, phi: Float[Tensor, " n"], eps: float) -> Float[Tensor, " n"]:
        """Convert the rows' log-sums to the potential f, in units of the cost."""
        return self.p - phi * (eps / LOG2E)

    def rescaled(self, gamma: Float[Tensor, " m"], sharpen: float) -> Float[Tensor, " m"]:
        """Convert gamma to that of the same g at 1 / sharpen times the eps."""
        return (gamma - self.log_b) * sharpen + self.log_b

    @abstractmethod
    def closed_form(self, eps: float) -> Float[Tensor, " m"] | None:
        """Compute gamma of Gaussians with the data's moments; None where the cost has no such formula."""

    @abstractmethod
    def bound(self, gamma: Float[Tensor, " m"], eps: float, *, exact: bool = False) -> Logits:
        """Build the logits at `gamma` and `eps`, ready for tiles; `exact` ones in float64 as `Problem.in_float64`."""

    @abstractmethod
    def forget(self) -> None:
        """Drop what a backend keeps of the points from pass to pass."""

    @abstractmethod
    def dense(self) -> Float[Tensor, "n m"]:
        """Compute c as a matrix in float64, for problems that are small enough."""


def kernel_of(problem: Problem, backend: Backend = TORCH, sides: tuple[Side, Side] | None = None) -> Kernel:
    """Build the kernel of the problem's cost, over all rows and columns or over those of two sides."""
    if callable(problem.cost):
        return CostKernel(problem if sides is None else problem.part(*sides), backend)
    return InnerKernel(problem, backend, sides)


class InnerKernel(Kernel):
    """The dot product, c = -x.y, or the squared distance, c = -2 x.y, of the centred points x, y."""

    def __init__(self, problem: Problem, backend: Backend, sides: tuple[Side, Side] | None = None) -> None:
        if sides is None:
            a, b = problem.weights()
            self.rows, self.columns = centred(problem.x0, a), centred(problem.x1, b)
        else:
            a, b = (side.weights / side.weights.sum() for side in sides)
            self.rows, self.columns = (
                centred(points, weights, side.rows)
                for points, weights, side in zip((problem.x0, problem.x1), (a, b), sides, strict=True)
            )
        centre0, centre1 = self.rows.centre, self.columns.centre
        if problem.cost == "dot":
            self.factor = 1.0
            p, q = -self.rows.each_as_given(lambda own: own @ centre1), -self.columns.each(lambda own: own @ centre0)
        else:
            self.factor = 2.0
            apart = centre0 - centre1
            p = self.rows.each(lambda own: own.square().sum(1) + 2 * (own @ apart)) + apart @ apart
            q = self.columns.each(lambda own: own.square().sum(1) - 2 * (own @ apart))
        super().__init__(problem, a, b, p, q, backend)

    def closed_form(self, eps: float) -> Float[Tensor, " m"]:
        """See `Kernel.closed_form`."""
        dot_eps = eps / self.factor
        return gaussian_potential(self.rows, self.columns, self.a, self.b, dot_eps) * (LOG2E / dot_eps) + self.log_b

    def bound(self, gamma: Float[Tensor, " m"], eps: float, *, exact: bool = False) -> "InnerLogits":
        """See `Kernel.bound`."""
        dtype = torch.float64 if exact else self.problem.x0.dtype
        return InnerLogits(self.rows, self.columns, self.factor * LOG2E / eps, gamma, dtype)

    def forget(self) -> None:
        """See `Kernel.forget`."""
        self.rows.kept = self.columns.kept = None

    def dense(self) -> Float[Tensor, "n m"]:
        """See `Kernel.dense`."""
        return (self.rows[:] @ self.columns[:].T).mul_(-self.factor)


class CostKernel(Kernel):
    """A cost given as a function of tiles."""

    def __init__(self, problem: Problem, backend: Backend) -> None:
        a, b = problem.weights()
        super().__init__(problem, a, b, torch.zeros_like(a), torch.zeros_like(b), backend)

    def closed_form(self, eps: float) -> None:
        """Return None; pipeline/ot/sinkhorn/descent.py finds the start of such a solve."""

    def bound(self, gamma: Float[Tensor, " m"], eps: float, *, exact: bool = False) -> "CostLogits":
        """See `Kernel.bound`."""
        problem = self.problem.in_float64() if exact else self.problem
        assert callable(problem.cost)
        return CostLogits(problem.cost, problem.x0, problem.x1, -LOG2E / eps, gamma.to(problem.x0.dtype))

    def forget(self) -> None:
        """See `Kernel.forget`; nothing is kept of such points."""

    def dense(self) -> Float[Tensor, "n m"]:
        """See `Kernel.dense`."""
        assert callable(self.problem.cost)
        return tile(self.problem.cost, self.problem.x0.double(), self.problem.x1.double())
