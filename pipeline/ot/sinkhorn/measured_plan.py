"""What a plan is, in float64, from the potentials that are returned: a plain loop over rows, apart from the solver.

Where all rows are visited, their soft-min is made again in float64, and the plan has the exact source marginal.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.ot.tiles.kernel import LOG2E, Kernel

CHUNK = 2**19  # entries at a time


class Measured(NamedTuple):
    """What was found; all but `source_error` and `phi` are None or 0 where only some of the rows were visited.

    Attributes:
        phi: log2 of the rows' sums, made again where all rows were visited [n].
        source_error: L1 error of the source marginal, over all rows or estimated from some.
        columns: the target marginal [m].
        moment: <P, c>, with c the part of the cost that the potentials do not absorb.
        nats: entropy of the plan.
    """

    phi: Float[Tensor, " n"]
    source_error: float
    columns: Float[Tensor, " m"] | None
    moment: float
    nats: float


def measure_plan(
    kernel: Kernel, gamma: Float[Tensor, " m"], phi: Float[Tensor, " n"], eps: float, most: int
) -> Measured:
    """Measure the plan P_ij = a_i 2^(logits_ij - phi_i), over rows with up to `most` entries.

    Args:
        kernel: kernel of the problem.
        gamma: the columns' part of the logits [m].
        phi: log2 of the rows' sums, as the solver found them [n].
        eps: absolute epsilon.
        most: entries to visit; fewer than all take rows at even distances.
    """
    a, n, m = kernel.a, len(kernel.a), len(kernel.b)
    count = max(1, min(n, most // m))
    rows = torch.arange(count, device=a.device) * n // count
    logits = kernel.bound(gamma, eps, exact=True)
    logits = logits if count == n else logits.restrict(rows, None)
    step = max(1, CHUNK // m)
    tile = logits.empty(step, m)
    error = moment = bits = 0.0
    columns, made = torch.zeros_like(gamma), phi.clone()
    for low in range(0, count, step):
        part = slice(low, min(count, low + step))
        own = logits.tile(part, tile).double()
        if count == n:
            top = own.amax(1)
            made[part] = top + (own - top[:, None]).exp2().sum(1).log2()
        mass, top = a[rows[part], None], made[rows[part], None]
        plan = mass * (own - top).exp2()
        error += (plan.sum(1) - mass[:, 0]).abs().sum().item()
        columns += plan.sum(0)
        moment += (plan * (gamma - own)).sum().item()
        bits -= (plan * (own - top + mass.log2())).sum().item()
    if count < n:
        return Measured(phi, error / a[rows].sum().item(), None, 0.0, 0.0)
    return Measured(made, error, columns, moment * eps / LOG2E, bits / LOG2E)
