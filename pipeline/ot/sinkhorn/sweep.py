"""One pass over all n x m entries, from g to everything that an iteration and its certificate need."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.tiles.bands import BandMasses
from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.partition import RowPartition, counted_distance, distance, to_fixed_point
from flowpairs.pipeline.ot.tiles.tiling import TileRun, Workers, column_groups

SAMPLE = 2**17  # entries by which the window is estimated
LN_2 = 0.6931471805599453


@dataclass(frozen=True)
class Entries:
    """The largest entries of P(. | i) of this process's rows, sorted by rows."""

    i: Int[Tensor, " k"]
    j: Int[Tensor, " k"]  # both int32
    logits: Float[Tensor, " k"]  # log2 P(j | i)


@dataclass(frozen=True)
class Sweep:
    """What one pass at `gamma` found, for the plan whose source marginal is exact: P_ij = a_i 2^(logits_ij - phi_i).

    A pass at foretold log-sums (`Backend.foretells`) measures the target marginal of a plan that has other masses of
    rows instead. In arrays over rows a process fills in only those of its share.
    """

    gamma: Float[Tensor, " m"]
    phi: Float[Tensor, " n"]  # log2 of the rows' sums
    columns: Float[Tensor, " m"]  # the target marginal of P
    bits: Float[Tensor, " n"] | None = None  # entropy of P(. | i) in bits
    entries: Entries | None = None
    bands: Float[Tensor, "p m"] | None = None  # what each band of this process's rows adds to the target marginal
    groups: Float[Tensor, "n g"] | None = None  # mass of P(. | i) in each group of columns
    masses: Float[Tensor, " n"] | None = None  # of the rows in the plan that `columns` and `bands` are of; None: a

    def error(self, a: Float[Tensor, " n"], b: Float[Tensor, " m"], share: RowPartition) -> float:
        """Bound the L1 error of the target marginal of the plan whose source marginal is `a`."""
        off = distance(self.columns, b)
        if self.masses is None:
            return off
        moved = counted_distance(self.masses[share.rows], a[share.rows])
        return off + 4 * share.masses(moved[None]).item()


def sweep(
    kernel: Logits,
    gamma: Float[Tensor, " m"],
    a: Float[Tensor, " n"],
    share: RowPartition,
    workers: Workers,
    *,
    keep: int | None = None,
    entropies: bool = False,
    marginal: bool = True,
) -> Sweep:
    """Compute each row's soft-min and, from the same tiles, the target marginal; on demand large entries and entropies.

    A row is whole in its tile, so its sum is known before its entries are added to the columns: one product and one
    exponential per entry give both halves of a Sinkhorn iteration.

    Args:
        kernel: logits with `gamma` in place.
        gamma: the columns' part of the logits [m], passed through.
        a: source weights [n], float64.
        share: partition whose rows are visited here.
        workers: the threads.
        keep: collect about this many entries per row, the largest over all rows; None collects none.
        entropies: also find the rows' entropies, for which logits must outlive their exponentials.
        marginal: sum the target marginal, the other half of an iteration; without it `columns` are zero.
    """
    phi, bits = torch.zeros_like(a), torch.zeros_like(a) if entropies else None
    window = None if keep is None else share.decided(deepest_kept(kernel, keep))
    cuts = column_groups(kernel.m)
    groups = None if keep is None else a.new_zeros(kernel.n, len(cuts), dtype=torch.float32)

    def work(group: TileRun) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        pieces = share.pieces(group)
        size = group[0].stop - group[0].start
        buffer = workers.room(0, size, kernel.m, kernel.empty)
        weights_buffer = workers.room(1, size, kernel.m, kernel.empty) if entropies else buffer
        columns = buffer.new_zeros(len(pieces), kernel.m)
        found = []
        for rows in group:
            logits = kernel.tile(rows, buffer)
            top = logits.amax(1, keepdim=True)
            logits.sub_(top)
            near = None
            if keep is not None and window is not None:
                near = within_depth(logits, window, 4 * keep * len(logits), workers)
            weights = torch.exp2(logits, out=weights_buffer[: len(logits)])
            if groups is None:
                total = weights.sum(1)
            else:
                parts = _group_sums(weights, cuts)
                total = parts.sum(1)
                groups[rows] = (parts / total[:, None]).float()
            if marginal:
                scaled = (a[rows] / total).to(weights.dtype)
                for piece, own in zip(pieces, columns, strict=True):
                    part = slice(max(0, piece.start - rows.start), piece.stop - rows.start)
                    own.addmv_(weights[part].T, scaled[part])
            phi[rows] = top[:, 0] + total.log2().double()
            if bits is not None:
                bits[rows] = total.log2() - logits.mul_(weights).sum(1) / total
            if near is not None:
                i, j, logit = near
                found.append(((i + rows.start).int(), j.int(), logit - total.log2()[i]))
        return to_fixed_point(columns), found

    masses, bands, found = torch.zeros_like(gamma, dtype=torch.int64), BandMasses(share), []
    for part, entries in workers.map(work, share.groups()):
        masses += part.sum(0)
        if keep is not None:
            bands.add(part)
        found += entries
    columns = share.masses(masses)
    if keep is None:
        return Sweep(gamma, phi, columns, bits)
    i, j, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Sweep(gamma, phi, columns, bits, Entries(i, j, logits), bands.masses(), groups)


def _group_sums(weights: Float[Tensor, "r m"], cuts: list[slice]) -> Float[Tensor, "r g"]:
    """Sum each row over each group of columns, all but the last of which are as wide as the first."""
    width, count = cuts[0].stop, len(cuts)
    sums = weights[:, : width * count].unflatten(1, (count, width)).sum(2)
    if cuts[-1].stop > width * count:
        sums[:, -1] += weights[:, width * count :].sum(1)
    return sums


def deepest_kept(kernel: Logits, keep: int, *, of_sum: bool = False) -> float:
    """Estimate from some rows how far below its row's largest a kept entry may lie, for about `keep` per row.

    With `of_sum` it is how far below the row's log-sum, so that rows with many alike entries may keep none.
    """
    count = min(kernel.n, max(16, 2**20 // kernel.m))
    some = torch.arange(count, device=kernel.device) * kernel.n // count
    sample = kernel.restrict(some, None)
    logits = sample.tile(slice(0, count), sample.empty(count, kernel.m))
    head = logits.mul(LN_2).logsumexp(1, keepdim=True) / LN_2 if of_sum else logits.amax(1, keepdim=True)
    depth = head - logits
    depth = depth[:, :: max(1, depth.numel() // SAMPLE)].flatten()
    return depth.kthvalue(max(1, min(len(depth), len(depth) * keep // kernel.m))).values.item()


def within_depth(
    logits: Float[Tensor, "r m"], window: float, most: int, workers: Workers
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Find rows, columns and logits of the entries above -window; beyond `most` it narrows the window, or thins ties.

    What a tile finds outlives it, so nothing as large as a tile may be allocated on the way: what is found would lie in
    the hole that it leaves, the next such beyond it, and so on, until memory is many times what is in use.
    """
    rows, columns = logits.shape
    mask = workers.room(2, rows, columns, partial(torch.empty, dtype=torch.bool, device=logits.device))
    for _ in range(8):
        if _mark(logits, -window, mask) <= most:
            break
        window /= 2
    hit = _positions(mask)
    hit = hit[:: -(-len(hit) // most)]
    return hit // columns, hit % columns, logits.view(-1)[hit]


def _mark(values: Float[Tensor, "r m"], bound: float, mask: Bool[Tensor, "r m"]) -> int:
    """Mark the values of at least `bound`; return how many there are. numpy is four times as fast on a CPU."""
    if values.device.type == "cpu":
        return int(np.count_nonzero(np.greater_equal(values.numpy(), bound, out=mask.numpy())))
    return int(torch.ge(values, bound, out=mask).sum())


def _positions(mask: Bool[Tensor, "r m"]) -> Int[Tensor, " k"]:
    """Find where the mask is true, as positions in the flattened tensor; numpy is faster here, too."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero()[:, 0]
