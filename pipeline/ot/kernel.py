"""The Gibbs kernel of the dot-product cost, as base-2 logits computed a tile at a time.

Inside the solver everything is in base 2 and in centred coordinates: with s = log2(e) / eps,

    logits_ij = s x0_i . x1_j + gamma_j,    gamma_j = s g_j + log2 b_j,    phi_i = log2 sum_j 2^logits_ij = -s f_i,

so that one matrix product with a column more gives the logits. Base 2 because exp2, unlike exp, does not slow
down where it underflows, which is where most entries lie at small eps. Centred because an offset of the data only moves
the potentials, but would cost float32 its digits.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ot.problem import Problem, centred

LOG2E = 1 / math.log(2)
NEVER = -1e30  # a logit that stands for zero probability and, unlike -inf, survives subtraction


class DotKernel:
    """Logits of all rows and columns of `problem` (zero weights included), at any eps."""

    def __init__(self, problem: Problem) -> None:
        a, b = problem.weights()
        self.dtype = problem.x0.dtype
        self.log_b = torch.log2(b).clamp(min=NEVER)
        (centre0, self.rows), (centre1, self.columns) = centred(problem.x0, a), centred(problem.x1, b)
        # C = C_centred - x0 . centre1 - centre0 . columns: what each potential absorbs.
        self.shift_f = problem.x0.double() @ centre1
        self.shift_g = self.columns @ centre0

    def gamma(self, g: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
        """The columns' part of the logits from the potential g, in units of the cost."""
        return (g.double() + self.shift_g) * (LOG2E / eps) + self.log_b

    def g(self, gamma: Float[Tensor, " m"], eps: float) -> Float[Tensor, " m"]:
        """The potential g, in units of the cost, from the columns' part of the logits."""
        return (gamma - self.log_b) * (eps / LOG2E) - self.shift_g

    def f(self, phi: Float[Tensor, " n"], eps: float) -> Float[Tensor, " n"]:
        """The potential f, in units of the cost, from the rows' log-sums."""
        return -phi * (eps / LOG2E) - self.shift_f

    def rescaled(self, gamma: Float[Tensor, " m"], sharpen: float) -> Float[Tensor, " m"]:
        """gamma of the same g at 1 / sharpen times the eps."""
        return (gamma - self.log_b) * sharpen + self.log_b

    def bound(self, gamma: Float[Tensor, " m"], eps: float) -> "Bound":
        """The logits at `gamma` and `eps`, ready for tiles."""
        one = self.rows.new_ones(len(self.rows), 1)
        left = torch.cat([self.rows * (LOG2E / eps), one], 1)
        right = torch.cat([self.columns, gamma[:, None]], 1)
        return Bound(left.to(self.dtype), right.to(self.dtype))


class Bound:
    """Logits with their `gamma` inside: rows of `left` times columns of `right`, restricted freely."""

    def __init__(self, left: Float[Tensor, "n k"], right: Float[Tensor, "m k"]) -> None:
        self.left, self.right = left, right
        self.n, self.m = len(left), len(right)

    def restrict(self, rows: Int[Tensor, " r"], columns: Int[Tensor, " c"]) -> "Bound":
        """The same logits for some of the rows and columns."""
        return Bound(self.left[rows], self.right[columns])

    def logits(self, rows: slice, out: Float[Tensor, "_ m"]) -> Float[Tensor, "r m"]:
        """Write the logits of the tile `rows` into the first rows of `out` and return them."""
        left = self.left[rows]
        return torch.mm(left, self.right.T, out=out[: len(left)])

    def empty(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """Room for a tile, of the kernel's type and device."""
        return self.left.new_empty(rows, columns)
