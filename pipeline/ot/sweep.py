"""One pass over all n x m entries: from g to everything that a Sinkhorn iteration and its certificate need."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.ot import tiles
from pipeline.ot.kernel import Bound


@dataclass(frozen=True)
class Sweep:
    """What one pass at `gamma` found, for the plan whose source marginal is exact: P_ij = a_i 2^(logits_ij - phi_i)."""

    gamma: Float[Tensor, " m"]
    phi: Float[Tensor, " n"]  # log2 of the rows' sums
    columns: Float[Tensor, " m"]  # the target marginal of P
    bits: Float[Tensor, " n"]  # entropy of P(. | i) in bits


def sweep(kernel: Bound, gamma: Float[Tensor, " m"], a: Float[Tensor, " n"]) -> Sweep:
    """Soft-min over every row and, from the same tiles, the target marginal and the rows' entropies.

    A row is whole in its tile, so its sum is known before its entries are added to the columns: one product and one
    exponential an entry give both halves of a Sinkhorn iteration.

    Args:
        kernel: logits with `gamma` in place.
        gamma: the columns' part of the logits [m], carried along.
        a: source weights [n], float64.
    """
    device, dtype = kernel.left.device, kernel.left.dtype
    phi, bits = torch.empty_like(a), torch.empty_like(a)

    def work(group: list[slice]) -> Float[Tensor, " m"]:
        size = group[0].stop - group[0].start
        logits_buffer, weights_buffer = kernel.empty(size, kernel.m), kernel.empty(size, kernel.m)
        columns = torch.zeros(kernel.m, dtype=dtype, device=device)
        for rows in group:
            logits = kernel.logits(rows, logits_buffer)
            top = logits.amax(1, keepdim=True)
            weights = torch.exp2(logits.sub_(top), out=weights_buffer[: len(logits)])
            total = weights.sum(1)
            columns.addmv_(weights.T, (a[rows] / total).to(dtype))
            bits[rows] = total.log2() - torch.linalg.vecdot(weights, logits) / total
            phi[rows] = top[:, 0] + total.log2().double()
        return columns

    total = torch.zeros_like(gamma)
    for columns in tiles.run(work, tiles.groups(kernel.n, kernel.m, device), device):
        total += columns
    return Sweep(gamma, phi, total, bits)
