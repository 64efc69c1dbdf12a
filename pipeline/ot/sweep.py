"""One pass over all n x m entries: from g to everything that an iteration and its certificate need."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.ot.kernel import Bound
from pipeline.ot.tiles import Workers

WORD = 8  # mask bytes looked at together


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
    bits: Float[Tensor, " n"]  # entropy of P(. | i) in bits
    entries: Entries | None = None


def sweep(
    kernel: Bound, gamma: Float[Tensor, " m"], a: Float[Tensor, " n"], workers: Workers, keep: int | None = None
) -> Sweep:
    """Soft-min over every row and, from the same tiles, the target marginal, the rows' entropies and large entries.

    A row is whole in its tile, so its sum is known before its entries are added to the columns: one product and one
    exponential an entry give both halves of a Sinkhorn iteration.

    Args:
        kernel: logits with `gamma` in place.
        gamma: the columns' part of the logits [m], carried along.
        a: source weights [n], float64.
        workers: the threads.
        keep: collect about this many entries a row, the largest over all rows; None collects none.
    """
    phi, bits = torch.empty_like(a), torch.empty_like(a)
    window = None if keep is None else _window(kernel, keep)
    most = 0 if keep is None else 4 * keep  # entries a row, over a tile
    width = -(-kernel.m // WORD) * WORD

    def work(group: list[slice]) -> tuple[Float[Tensor, " m"], list[tuple[Tensor, Tensor, Tensor]]]:
        size = group[0].stop - group[0].start
        logits_buffer, weights_buffer = kernel.empty(size, kernel.m), kernel.empty(size, kernel.m)
        mask = torch.zeros(size, width, dtype=torch.bool, device=a.device)
        columns = torch.zeros_like(kernel.right[:, 0])
        found = []
        for rows in group:
            logits = kernel.logits(rows, logits_buffer)
            top = logits.amax(1, keepdim=True)
            weights = torch.exp2(logits.sub_(top), out=weights_buffer[: len(logits)])
            total = weights.sum(1)
            columns.addmv_(weights.T, (a[rows] / total).to(weights.dtype))
            bits[rows] = total.log2() - torch.linalg.vecdot(weights, logits) / total
            phi[rows] = top[:, 0] + total.log2().double()
            if window is not None:
                i, j = _within(logits, window, most * len(logits), mask)
                found.append(((i + rows.start).int(), j.int(), logits[i, j] - total.log2()[i]))
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
    logits: Float[Tensor, "r m"], window: float, most: int, mask: Bool[Tensor, "_ width"]
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Rows and columns of the logits above -window; a tile with more than `most` narrows its window, or thins its ties.

    The search looks at WORD entries of the mask at once, since nearly all of them are empty.
    """
    inside = mask[: len(logits)]
    for _ in range(8):
        torch.ge(logits, -window, out=inside[:, : logits.shape[1]])
        row, word = inside.view(torch.int64).nonzero(as_tuple=True)
        hit, byte = inside.unflatten(1, (-1, WORD))[row, word].nonzero(as_tuple=True)
        if len(hit) <= most:
            break
        window /= 2
    stride = -(-len(hit) // most)
    hit, byte = hit[::stride], byte[::stride]
    return row[hit], word[hit] * WORD + byte
