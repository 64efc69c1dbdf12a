"""One pass over all n x m entries: from g to everything that an iteration and its certificate need."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ot.kernel import NEVER, Bound
from pipeline.ot.tiles import Workers

PARTS = 16  # columns whose largest logit is looked at first when large entries are sought


@dataclass(frozen=True)
class Entries:
    """The largest entries of P(. | i), sorted by rows."""

    i: Int[Tensor, " k"]
    j: Int[Tensor, " k"]  # both int32
    logits: Float[Tensor, " k"]  # log2 P(j | i)


@dataclass(frozen=True)
class Sweep:
    """What one pass at `gamma` found, for the plan whose source marginal is exact: P_ij = a_i 2^(logits_ij - phi_i)."""

    gamma: Float[Tensor, " m"]
    phi: Float[Tensor, " n"]  # log2 of the rows' sums
    columns: Float[Tensor, " m"]  # the target marginal of P
    bits: Float[Tensor, " n"] | None = None  # entropy of P(. | i) in bits
    entries: Entries | None = None


def sweep(
    kernel: Bound,
    gamma: Float[Tensor, " m"],
    a: Float[Tensor, " n"],
    workers: Workers,
    *,
    keep: int | None = None,
    entropies: bool = False,
) -> Sweep:
    """Soft-min over every row and, from the same tiles, the target marginal; on demand large entries and entropies.

    A row is whole in its tile, so its sum is known before its entries are added to the columns: one product and one
    exponential an entry give both halves of a Sinkhorn iteration.

    Args:
        kernel: logits with `gamma` in place.
        gamma: the columns' part of the logits [m], carried along.
        a: source weights [n], float64.
        workers: the threads.
        keep: collect about this many entries a row, the largest over all rows; None collects none.
        entropies: also find the rows' entropies, for which logits must outlive their exponentials.
    """
    phi, bits = torch.empty_like(a), torch.empty_like(a) if entropies else None
    window = None if keep is None else _window(kernel, keep)
    most = 0 if keep is None else 4 * keep  # entries a row, over a tile
    width = -(-kernel.m // PARTS) * PARTS

    def work(group: list[slice]) -> tuple[Float[Tensor, " m"], list[tuple[Tensor, Tensor, Tensor]]]:
        size = group[0].stop - group[0].start
        buffer = kernel.empty(size, width).fill_(NEVER)
        weights_buffer = kernel.empty(size, width) if entropies else buffer
        columns = torch.zeros_like(kernel.right[:, 0])
        found = []
        for rows in group:
            kernel.logits(rows, buffer[:, : kernel.m])
            logits = buffer[: rows.stop - rows.start]
            peaks = logits if window is None else logits.unflatten(1, (PARTS, -1)).amax(1)
            top = peaks.amax(1, keepdim=True)
            logits.sub_(top)
            near = None if window is None else _within(logits, peaks - top, window, most * len(logits))
            weights = torch.exp2(logits, out=weights_buffer[: len(logits)])
            total = weights.sum(1)
            columns.addmv_(weights[:, : kernel.m].T, (a[rows] / total).to(weights.dtype))
            phi[rows] = top[:, 0] + total.log2().double()
            if bits is not None:
                bits[rows] = total.log2() - torch.linalg.vecdot(weights, logits) / total
            if near is not None:
                i, j, logit = near
                found.append(((i + rows.start).int(), j.int(), logit - total.log2()[i]))
            buffer[:, kernel.m :] = NEVER  # exp2 may have written there
        return columns, found

    columns, found = torch.zeros_like(gamma), []
    for part, entries in workers.run(work, kernel.n, kernel.m):
        columns += part
        found += entries
    if window is None:
        return Sweep(gamma, phi, columns, bits)
    i, j, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Sweep(gamma, phi, columns, bits, Entries(i, j, logits))


def _window(kernel: Bound, keep: int) -> float:
    """How far below its row's largest an entry may lie so that about `keep` are kept a row, judged by some rows."""
    count = min(kernel.n, max(16, 2**20 // kernel.m))
    some = torch.arange(count, device=kernel.left.device) * kernel.n // count
    sample = kernel.restrict(some, torch.arange(kernel.m, device=some.device))
    logits = sample.logits(slice(0, count), sample.empty(count, kernel.m))
    depth = logits.amax(1, keepdim=True) - logits
    return depth.flatten().kthvalue(min(keep, kernel.m) * count).values.item()


def _within(
    logits: Float[Tensor, "r width"], peaks: Float[Tensor, "r parts"], window: float, most: int
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Rows, columns and logits of the entries above -window; with more than `most` it narrows, or thins its ties.

    `peaks` are the largest of every PARTS logits, as far apart as there are peaks; most are too low to look behind.
    """
    for _ in range(8):
        row, peak = (peaks >= -window).nonzero(as_tuple=True)
        behind = logits.unflatten(1, (PARTS, -1))[row, :, peak]
        hit, part = (behind >= -window).nonzero(as_tuple=True)
        if len(hit) <= most:
            break
        window /= 2
    stride = -(-len(hit) // most)
    hit, part = hit[::stride], part[::stride]
    return row[hit], part * peaks.shape[1] + peak[hit], behind[hit, part]
