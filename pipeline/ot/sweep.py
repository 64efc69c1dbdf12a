"""One pass over all n x m entries: from g to everything that an iteration and its certificate need."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.ot.logits import Logits
from pipeline.ot.share import Share, count
from pipeline.ot.tiles import Group, Workers

SAMPLE = 2**17  # entries by which the window is judged


@dataclass(frozen=True)
class Entries:
    """The largest entries of P(. | i) of this process's rows, sorted by rows."""

    i: Int[Tensor, " k"]
    j: Int[Tensor, " k"]  # both int32
    logits: Float[Tensor, " k"]  # log2 P(j | i)


@dataclass(frozen=True)
class Sweep:
    """What one pass at `gamma` found, for the plan whose source marginal is exact: P_ij = a_i 2^(logits_ij - phi_i).

    Of the arrays over rows a process fills in those of its share.
    """

    gamma: Float[Tensor, " m"]
    phi: Float[Tensor, " n"]  # log2 of the rows' sums
    columns: Float[Tensor, " m"]  # the target marginal of P
    bits: Float[Tensor, " n"] | None = None  # entropy of P(. | i) in bits
    entries: Entries | None = None


def sweep(
    kernel: Logits,
    gamma: Float[Tensor, " m"],
    a: Float[Tensor, " n"],
    share: Share,
    workers: Workers,
    *,
    keep: int | None = None,
    entropies: bool = False,
    marginal: bool = True,
) -> Sweep:
    """Soft-min over every row and, from the same tiles, the target marginal; on demand large entries and entropies.

    A row is whole in its tile, so its sum is known before its entries are added to the columns: one product and one
    exponential an entry give both halves of a Sinkhorn iteration.

    Args:
        kernel: logits with `gamma` in place.
        gamma: the columns' part of the logits [m], carried along.
        a: source weights [n], float64.
        share: which rows are visited here.
        workers: the threads.
        keep: collect about this many entries a row, the largest over all rows; None collects none.
        entropies: also find the rows' entropies, for which logits must outlive their exponentials.
        marginal: add up the target marginal, the other half of an iteration; without it `columns` are zero.
    """
    phi, bits = torch.zeros_like(a), torch.zeros_like(a) if entropies else None
    window = None if keep is None else _window(kernel, keep)

    def work(group: Group) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        size = group[0].stop - group[0].start
        buffer = workers.room(0, size, kernel.m, kernel.empty)
        weights_buffer = workers.room(1, size, kernel.m, kernel.empty) if entropies else buffer
        columns = buffer.new_zeros(kernel.m)
        found = []
        for rows in group:
            logits = kernel.tile(rows, buffer)
            top = logits.amax(1, keepdim=True)
            logits.sub_(top)
            near = None if keep is None or window is None else _within(logits, window, 4 * keep * len(logits))
            weights = torch.exp2(logits, out=weights_buffer[: len(logits)])
            total = weights.sum(1)
            if marginal:
                columns.addmv_(weights.T, (a[rows] / total).to(weights.dtype))
            phi[rows] = top[:, 0] + total.log2().double()
            if bits is not None:
                bits[rows] = total.log2() - torch.linalg.vecdot(weights, logits) / total
            if near is not None:
                i, j, logit = near
                found.append(((i + rows.start).int(), j.int(), logit - total.log2()[i]))
        return count(columns), found

    masses, found = torch.zeros_like(gamma, dtype=torch.int64), []
    for part, entries in workers.map(work, share.groups()):
        masses += part
        found += entries
    columns = share.masses(masses)
    if keep is None:
        return Sweep(gamma, phi, columns, bits)
    i, j, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Sweep(gamma, phi, columns, bits, Entries(i, j, logits))


def large_entries(kernel: Logits, phi: Float[Tensor, " n"], share: Share, workers: Workers, keep: int) -> Entries:
    """The entries that `sweep` collects, for a backend that knows the rows' log-sums from elsewhere.

    Args:
        kernel, share, workers, keep: as for `sweep`.
        phi: the log-sums of this process's rows [n].
    """
    window = _window(kernel, keep)

    def work(group: Group) -> list[tuple[Tensor, Tensor, Tensor]]:
        buffer = workers.room(0, group[0].stop - group[0].start, kernel.m, kernel.empty)
        found = []
        for rows in group:
            logits = kernel.tile(rows, buffer)
            top = logits.amax(1, keepdim=True)
            i, j, logit = _within(logits.sub_(top), window, 4 * keep * len(logits))
            found.append(((i + rows.start).int(), j.int(), logit + (top[:, 0] - phi[rows]).to(logit.dtype)[i]))
        return found

    found = [entries for part in workers.map(work, share.groups()) for entries in part]
    i, j, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Entries(i, j, logits)


def _window(kernel: Logits, keep: int) -> float:
    """How far below its row's largest an entry may lie so that about `keep` are kept a row, judged by some rows."""
    count = min(kernel.n, max(16, 2**20 // kernel.m))
    some = torch.arange(count, device=kernel.device) * kernel.n // count
    sample = kernel.restrict(some, torch.arange(kernel.m, device=some.device))
    logits = sample.tile(slice(0, count), sample.empty(count, kernel.m))
    depth = logits.amax(1, keepdim=True) - logits
    depth = depth[:, :: max(1, depth.numel() // SAMPLE)].flatten()
    return depth.kthvalue(max(1, min(len(depth), len(depth) * keep // kernel.m))).values.item()


def _within(
    logits: Float[Tensor, "r m"], window: float, most: int
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Rows, columns and logits of the entries above -window; with more than `most` it narrows, or thins its ties."""
    for _ in range(8):
        hit = _above(logits, -window)
        if len(hit) <= most:
            break
        window /= 2
    hit = hit[:: -(-len(hit) // most)]
    return hit // logits.shape[1], hit % logits.shape[1], logits.view(-1)[hit]


def _above(values: Float[Tensor, "r m"], bound: float) -> Int[Tensor, " k"]:
    """Where values are at least `bound`, as positions in the flattened tensor; numpy is four times as fast on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() >= bound))
    return (values >= bound).view(-1).nonzero()[:, 0]
