"""Parts of a problem that hardly exchange mass: one number per part, solved exactly, before anything finer.

Where clusters are far apart, whatever mass has to cross from one to another does so by entries too small to be kept,
and no step that looks at kept entries alone finds how much the potential of a whole part has to move. With the
potential fixed within the parts, each row's soft-min over each part is a number, and the parts' offsets solve a small
semi-discrete problem: n rows, one target per part. That is an exact step of block-coordinate ascent of the dual.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep
from flowpairs.pipeline.ot.tiles.ordered_sums import add_by_index
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import column_groups, group_of_columns

STRONG = 10.0  # bits below its row's largest down to which an entry joins its row and column
MOST = 64  # largest number of parts
COARSE = 0.5  # share of the error that has to be between parts
COOLER = 4.0  # factor between two temperatures
STEPS, HALVINGS = 60, 30
STEP = 8.0  # largest change of an offset in a step, in units of the temperature
ENOUGH = 1e-9  # L1 error of the parts' masses


def find_parts(current: Sweep, b: Float[Tensor, " m"], share: RowPartition) -> Int[Tensor, " m"] | None:
    """Find the parts between which most of a pass's error lies, as the number of each column's part; None without.

    Args:
        current: the pass, with its entries.
        b: target weights [m].
        share: partition of the rows.
    """
    part = _components(current, len(b), share)
    count = int(part.max()) + 1
    if not 1 < count <= MOST:
        return None
    apart = current.columns - b
    between = part_masses(apart, part).abs().sum() >= COARSE * apart.abs().sum()
    return part if share.decided(bool(between)) else None


def part_masses(columns: Float[Tensor, " m"], parts: Int[Tensor, " m"]) -> Float[Tensor, " k"]:
    """Sum numbers of columns over each part."""
    return add_by_index(columns.new_zeros(int(parts.max()) + 1), parts, columns)


def _components(current: Sweep, m: int, share: RowPartition) -> Int[Tensor, " m"]:
    """Number the connected components of the columns that share rows, in the order of their first columns.

    A row joins the columns of its strong entries. A column without one is joined to the row that is likeliest to give
    it most: that with the largest mass in the column's group, in the band of rows that gives it most.
    """
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    def labelled(i: np.ndarray, j: np.ndarray, size: int) -> np.ndarray:
        graph = csr_array((np.ones(len(i), np.int8), (i, j)), shape=(size, size))
        return connected_components(graph, directed=False)[1].astype(np.int64)

    assert current.entries is not None
    entries, n = current.entries, share.n
    top = torch.full((n,), -math.inf, dtype=entries.logits.dtype, device=entries.logits.device)
    top.scatter_reduce_(0, entries.i.long(), entries.logits, "amax")
    strong = entries.logits >= top[entries.i] - STRONG
    i, j = entries.i[strong].long(), entries.j[strong].long()
    alone = torch.ones(m, dtype=torch.int64, device=j.device)
    alone[j] = 0
    rows, columns = _givers(current, share, alone)
    first, second = torch.cat([j, columns]).cpu().numpy(), torch.cat([i, rows]).cpu().numpy()
    labels = labelled(first, m + second, m + n)[:m]
    if share.team.size > 1:  # join what the members found: each column with its label in each member
        stack = torch.zeros(share.team.size, m, dtype=torch.int64)
        stack[share.team.rank] = torch.from_numpy(labels)
        every = share.team.sum(stack.to(share.device)).cpu().numpy() + (m + n) * np.arange(share.team.size)[:, None]
        labels = labelled(np.tile(np.arange(m), share.team.size), m + every.ravel(), m + (m + n) * share.team.size)[:m]
    return _renumbered(torch.from_numpy(labels)).to(share.device)


def _givers(current: Sweep, share: RowPartition, alone: Int[Tensor, " m"]) -> tuple[Tensor, Tensor]:
    """Find the rows of this process to which columns without strong entries in any process are joined."""
    alone = share.team.sum(alone.clone()) == share.team.size
    if current.bands is None or current.groups is None or not bool(alone.any()):
        return alone.new_zeros(0, dtype=torch.int64), alone.new_zeros(0, dtype=torch.int64)
    group = group_of_columns(column_groups(share.m), alone.device)
    most, band = current.bands.max(0)
    best = most.new_zeros(share.team.size, share.m)
    best[share.team.rank] = most
    mine = alone & (share.team.sum(best).argmax(0) == share.team.rank)
    pieces = share.all_pieces()
    if share.banded:  # of a band its first piece; a member that lacks it loses to the one before, which has it
        bands = share.bands(len(pieces))
        pieces = [pieces[bands.index(own)] for own in range(bands[-1] + 1)]
    rows = torch.stack([rows.start + current.groups[rows].argmax(0) for rows in pieces])
    columns = mine.nonzero()[:, 0]
    return rows[band[columns], group[columns]], columns


def _renumbered(labels: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
    """Number the labels in the order of their first columns."""
    values, inverse = labels.unique(return_inverse=True)
    first = torch.full((len(values),), len(labels)).scatter_reduce_(0, inverse, torch.arange(len(labels)), "amin")
    return first.argsort().argsort()[inverse]


def offsets(w: Float[Tensor, "n k"], a: Float[Tensor, " n"], b: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Find the offsets at which the parts get their masses: sum_i a_i softmax_k(w_i + offset) = b, in base 2.

    The masses are steep functions of the offsets and flat between the steps, so a temperature is lowered from the
    spread of `w` to 1, with Newton's steps at each.

    Args:
        w: log2 of each row's sum over each part [n, k], float64.
        a: source weights [n].
        b: target mass of each part [k].
    """
    w = w - w.amax(1, keepdim=True)
    delta = torch.zeros_like(b)
    temperature = max(1.0, -w.min().item())
    while True:
        delta = _newton(w / temperature, a, b, delta / temperature) * temperature
        if temperature == 1.0:
            return delta
        temperature = max(1.0, temperature / COOLER)


def _newton(
    w: Float[Tensor, "n k"], a: Float[Tensor, " n"], b: Float[Tensor, " k"], delta: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """Maximise the dual by Newton's steps with a bounded step and halving."""
    ln2 = math.log(2)

    def value(at: Tensor) -> tuple[float, Tensor]:
        logits = (w + at) * ln2
        return (b @ at * ln2 - a @ logits.logsumexp(1)).item(), logits.softmax(1)

    best, p = value(delta)
    for _ in range(STEPS):
        mass = a @ p
        slope = b - mass
        if slope.abs().sum() < ENOUGH:
            break
        curvature = mass.diag() - (p * a[:, None]).T @ p
        curvature.diagonal().add_(1e-14 + 1e-12 * curvature.diagonal().amax())
        step = torch.linalg.solve(curvature, slope)
        step -= step.mean()
        step = step * min(1.0, STEP / step.abs().max().item()) / ln2
        for _ in range(HALVINGS):
            found, there = value(delta + step)
            if found >= best:
                break
            step = step / 2
        else:
            break
        delta, best, p = delta + step, found, there
    return delta
