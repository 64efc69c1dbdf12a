"""Columns that get next to nothing of their mass: their exact soft-min, over these columns alone.

A pass measures masses in integers of 2^-62, and keeps entries that are large in their row. A column far from all rows
at the present potential has neither a mass nor an entry, so nothing says how far its potential has to rise: by
thousands of bits, for one point 50 times as long as the others. Its exact soft-min does, in logs. It takes one thin
tile of the kernel, all rows by the starved columns, alternating with the rows' soft-min, in which all other columns
are one number per row.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.sinkhorn.sweep import Entries, Sweep
from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.partition import RowPartition

STARVED = 1e-12  # share of its mass below which a column is starved
MOST, SHARE = 2**23, 4  # largest number of entries of the thin tile, and largest share of the columns, one in SHARE
ROUNDS = 3
WINDOW = 24.0  # bits below the largest of its column down to which an entry is kept


class Fed(NamedTuple):
    """The potential after the exact soft-min of some columns, and what it changes in a pass.

    Attributes:
        columns: the starved columns [s].
        gamma: the columns' part of the logits [m], raised at the starved columns.
        shift: log2 by which the rows' sums grew [n]; only this process's rows.
        entries: the largest entries of the starved columns, relative to the new row sums.
    """

    columns: Int[Tensor, " s"]
    gamma: Float[Tensor, " m"]
    shift: Float[Tensor, " n"]
    entries: Entries


def feed(
    logits: Logits, current: Sweep, a: Float[Tensor, " n"], b: Float[Tensor, " m"], share: RowPartition
) -> Fed | None:
    """Raise the columns to which a pass gave less than STARVED of their mass; None where there is none.

    Args:
        logits: logits of the pass, with its gamma in place.
        current: the pass.
        a: source weights [n].
        b: target weights [m].
        share: partition of the rows.
    """
    most = max(1, min(MOST // len(a), len(b) // SHARE))
    starved = (current.columns < STARVED * b).nonzero()[:, 0]
    if not len(starved):
        return None
    if len(starved) > most:
        worst = (b - current.columns)[starved].argsort(descending=True, stable=True)[:most]
        starved = starved[worst].sort().values
    rows = torch.arange(share.rows.start, share.rows.stop, device=a.device)
    thin = logits.restrict(rows, starved)
    tile = thin.tile(slice(0, len(rows)), thin.empty(len(rows), len(starved))).double() - current.phi[share.rows, None]
    log_a, log_b = a[share.rows].log2(), b[starved].log2()
    shift = torch.zeros_like(log_a)
    rise = torch.zeros_like(log_b)
    for _ in range(ROUNDS):
        rise = log_b - _log_sums(tile + (log_a - shift)[:, None], share)[1]
        # The others have 1 in all, the starved columns what their new potential gives them.
        shift = _shift(tile + rise)
    tile += rise - shift[:, None]
    top = _log_sums(tile, share)[0]
    row, column = (tile >= top - WINDOW).nonzero(as_tuple=True)
    gamma = current.gamma.clone()
    gamma[starved] += rise
    whole = torch.zeros_like(a)
    whole[share.rows] = shift
    entries = Entries(rows[row].int(), starved[column].int(), tile[row, column])
    return Fed(starved, gamma, whole, entries)


def _shift(tile: Float[Tensor, "r s"]) -> Float[Tensor, " r"]:
    """Compute log2 of 1 + the row's sum of 2^tile."""
    top = tile.amax(1).clamp(min=0)
    return top + ((-top).exp2() + (tile - top[:, None]).exp2().sum(1)).log2()


def _log_sums(tile: Float[Tensor, "r s"], share: RowPartition) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Find the columns' largest numbers and log2 of the sums of 2^tile, over the rows of all processes."""
    stack = tile.new_zeros(2, len(share.sections), tile.shape[1])
    for k in share.mine:
        section = share.sections[k]
        part = tile[section.start - share.rows.start : section.stop - share.rows.start]
        stack[0, k] = part.amax(0)
        stack[1, k] = (part - stack[0, k]).exp2().sum(0)
    tops, sums = share.team.sum(stack)
    top = tops.amax(0)
    return top, top + (sums * (tops - top).exp2()).sum(0).log2()
