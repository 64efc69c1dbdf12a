"""A sparse stand-in for the kernel near one sweep, on which Sinkhorn iterations cost next to nothing.

The large entries of the plan are kept one by one, all others together as the rank-one matrix r c^T / sum(r) that has
their row sums r and column sums c. Because the rest is kept, no row or column can starve, and the stand-in has
exactly the marginals that the sweep measured; because the large entries are kept with their logits, it can be solved at
a smaller eps than it was made at. What it misses, the next sweep measures.
"""

import math
import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ot.anderson import Anderson
from pipeline.ot.sweep import Sweep

MEMORY = 8
ITERATIONS = 500
BOUND = 900.0  # of |log2 v|: float64 holds v and what it multiplies
LEAST = 1e-30  # the rest's least share of a column, so that every column can be reached
TINY = 1e-300


class Solution(NamedTuple):
    """What the stand-in's solution at some eps is expected to be."""

    gamma: Float[Tensor, " m"]
    error: float  # L1, of the target marginal, on the stand-in
    rest: float  # the share of P that is not kept entry by entry
    entropy: float  # H(P) in nats, where the sweep found its entropies


class Surrogate:
    """The stand-in for the plan with marginals a, b that `sweep` found."""

    def __init__(
        self, sweep: Sweep, a: Float[Tensor, " n"], b: Float[Tensor, " m"], log_b: Float[Tensor, " m"]
    ) -> None:
        assert sweep.entries is not None
        self.gamma, self.a, self.b, self.log_b = sweep.gamma, a, b, log_b
        self.i, self.j, self.logits = sweep.entries.i, sweep.entries.j, sweep.entries.logits.double()
        self.by_column = self.j.argsort(stable=True)
        self.pattern = _starts(self.i, len(a)), self.j
        self.transposed_pattern = _starts(self.j[self.by_column], len(b)), self.i[self.by_column]
        by_rows, by_columns = self._kernel(self.logits.exp2())
        self.rest_of_row = (1 - by_rows @ torch.ones_like(b)).clamp(min=0)
        rest_of_column = (sweep.columns - by_columns @ a).clamp(min=LEAST)
        self.rest_of_column = rest_of_column / rest_of_column.sum()
        self.entropy_of_rest = torch.full_like(a[0], math.nan)
        if sweep.bits is not None:
            # The sweep knows the entropy of the whole plan, hence that of the rest as a distribution of its own.
            rest = (a @ self.rest_of_row).clamp(min=TINY)
            kept = _entropy(a[self.i] * self.logits.exp2())
            total = _entropy(a) + (a @ sweep.bits) * math.log(2)
            self.entropy_of_rest = (total - kept - _entropy(rest)).clamp(min=0) / rest

    def solve(self, sharpen: float, tol: float) -> Solution:
        """Sinkhorn with Anderson acceleration on the stand-in, at 1 / sharpen times the sweep's eps."""
        log_b = self.log_b[self.j]
        logits = (self.logits - log_b) * sharpen + log_b
        top = torch.zeros_like(self.a).scatter_reduce_(0, self.i.long(), logits, "amax", include_self=False)
        kernel, transposed = self._kernel((logits - top[self.i]).exp2())
        # An entry that was left out lies below every one kept, and shrinks by at least as much.
        fading = (self.logits.min() - self.log_b.mean()) * (sharpen - 1) - top
        r, c = self.rest_of_row * fading.clamp(max=BOUND).exp2(), self.rest_of_column

        x = torch.zeros_like(self.b)
        best, least, anderson = x, math.inf, Anderson(MEMORY)
        scaling = torch.ones_like(self.a)
        for _ in range(ITERATIONS):
            v = x.exp2()
            u = self.a / (kernel @ v + r * (c @ v)).clamp(min=TINY)
            column = v * (transposed @ u + c * (r @ u))
            error = (column - self.b).abs().sum().item()
            if error < least:
                best, least, scaling = x, error, u
            if error < tol:
                break
            x = anderson.mix(x, x + (self.b / column.clamp(min=TINY)).log2()).clamp(-BOUND, BOUND)
        kept = (scaling.log2()[self.i] + best[self.j] + logits - top[self.i]).exp2()
        rest = (scaling @ r) * (c @ best.exp2())
        nats = _entropy(kept) + _entropy(rest) + rest * self.entropy_of_rest
        return Solution((self.gamma - self.log_b) * sharpen + self.log_b + best, least, rest.item(), nats.item())

    def _kernel(self, mass: Float[Tensor, " k"]) -> tuple[Tensor, Tensor]:
        """The entries as a sparse matrix [n, m] and as its transpose, both stored by rows for fast products."""
        n, m = len(self.a), len(self.b)
        return _csr(*self.pattern, mass, (n, m)), _csr(*self.transposed_pattern, mass[self.by_column], (m, n))


def _entropy(masses: Float[Tensor, "*k"]) -> Float[Tensor, ""]:
    return torch.special.entr(masses).sum()


def _starts(sorted_rows: Int[Tensor, " k"], n: int) -> Int[Tensor, " starts"]:
    rows = torch.arange(n + 1, dtype=sorted_rows.dtype, device=sorted_rows.device)
    return torch.searchsorted(sorted_rows, rows, out_int32=True)


def _csr(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
