"""The flash-sinkhorn backend (arXiv 2602.03067): Triton kernels for CUDA that keep a tile's logits on the chip.

Only that library's log-sum-exp kernel is used, -e log sum_j exp(x_i.y_j / e + bias_j) with its `cost_scale` 1/2; at e =
log2(e) and a bias in nats it is a log-sum in base 2. TensorFloat-32, its default, is switched off: three digits of a
logit are too few. The kernel computes no entropies, so the pass that certifies a coupling, and draws, are those of the
torch tiles.
"""

import importlib.util
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.backends.protocol import TORCH
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep, large_entries
from flowpairs.pipeline.ot.tiles.logits import InnerLogits, Logits
from flowpairs.pipeline.ot.tiles.partition import SINGLE, UNIT, RowPartition, Team, to_fixed_point
from flowpairs.pipeline.ot.tiles.tiling import Workers

LN2 = math.log(2)
BLOCK = 128  # rows and columns of its tiles; by itself it chooses the fastest it finds, which changes bits
FEWEST = 17  # features: its kernels take 16 at a time, and its source warns that a single step may go wrong


class Flash:
    """A `Backend` for inner-product costs in float32 with many features, on CUDA."""

    def refusal(self, problem: Problem) -> str | None:
        """Explain why it cannot serve a problem; None if it can."""
        if callable(problem.cost):
            return "a cost given as a function needs torch tiles"
        if not problem.x0.is_cuda:
            return "it needs CUDA"
        if problem.x0.dtype != torch.float32:
            return "it computes in float32 and the points are float64"
        if problem.x0.shape[1] < FEWEST:
            return f"its kernels need at least {FEWEST} features"
        if importlib.util.find_spec("flash_sinkhorn") is None:
            return "flash-sinkhorn is not installed (pip install 'flowpairs[cuda]')"
        return None

    def sweep(
        self,
        logits: Logits,
        gamma: Float[Tensor, " m"],
        a: Float[Tensor, " n"],
        share: RowPartition,
        workers: Workers,
        *,
        keep: int | None = None,
        entropies: bool = False,
        marginal: bool = True,
    ) -> Sweep:
        """See `Backend.sweep`; with entropies by torch tiles, which also find the large entries."""
        if entropies:
            return TORCH.sweep(logits, gamma, a, share, workers, keep=keep, entropies=True, marginal=marginal)
        assert isinstance(logits, InnerLogits)
        x, y = logits.left[:, :-1], logits.right[:, :-1]
        phi = torch.zeros_like(a)
        phi[share.rows] = _log_sum(x[share.rows], y, gamma)
        pieces: list[Tensor] = []
        for rows in share.all_pieces() if marginal else ():  # one sum per piece, or it would depend on the team's size
            pieces.append(to_fixed_point((gamma + _log_sum(y, x[rows], a[rows].log2() - phi[rows])).exp2()))
        masses = share.masses(sum(pieces, torch.zeros_like(gamma, dtype=torch.int64)))
        if keep is None:
            return Sweep(gamma, phi, masses)
        entries = large_entries(logits, phi, share, workers, keep)
        return Sweep(gamma, phi, masses, None, entries, torch.stack(pieces).double() / UNIT)

    def argmax(self, logits: Logits, team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.argmax`; by torch tiles."""
        return TORCH.argmax(logits, team)

    def draw(self, logits: Logits, u: Float[Tensor, " n"], team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.draw`; by torch tiles."""
        return TORCH.draw(logits, u, team)


def _log_sum(x: Float[Tensor, "r d"], y: Float[Tensor, "c d"], bias: Float[Tensor, " c"]) -> Float[Tensor, " r"]:
    """Compute log2 sum_j 2^(x_i.y_j + bias_j)."""
    if len(x) == 0:
        return bias.new_zeros(0)
    from flash_sinkhorn.kernels.sinkhorn_flashstyle_sqeuclid import flashsinkhorn_lse

    log_sum = flashsinkhorn_lse(
        x, y, bias * LN2, 1 / LN2, cost_scale=0.5, allow_tf32=False, autotune=False, block_m=BLOCK, block_n=BLOCK
    )
    return -log_sum.double()
