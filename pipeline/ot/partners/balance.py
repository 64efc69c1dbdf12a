"""Balanced draws: one target row per source row, and every target row used as often as its weight says.

`balanced_draw` and `cheapest` draw from a block's coupling; `relabel` corrects a semi-discrete assignment.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from flowpairs.pipeline.ot.partners.inverse_cdf import first_beyond
from flowpairs.pipeline.ot.partners.rounding import round_masses
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.semidiscrete.assign import Assignment
from flowpairs.pipeline.ot.sinkhorn.anderson import Anderson
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.ordered_sums import running_sums
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team
from flowpairs.pipeline.ot.tiles.tiling import TileRun, Workers

KEPT = 32  # entries of P(. | i) that represent a row: all of more than 1 / KEPT, and about as many of the others
ALL = 2**18  # entries of a block up to which all are kept
SCALINGS, SCALING_MEMORY, SCALED_AT_MOST = 300, 8, 60.0
WHOLE = 0.05  # pairs that a scaling may miss
RESIDUAL = 1024  # remaining rows that are assigned at once, at the least cost


def capacities(b: Float[Tensor, " m"], n: int, order: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
    """Round n b to integers that sum to n, each up or down.

    Of equal shares the first in `order` are rounded up. Of unequal ones those are at which the sum of the fractions, in
    that order, passes a half more than a whole number (systematic sampling): in a random order a datum is rounded up
    about as often as its fraction says, so that small weights are used in some blocks.
    """
    share = _shares(b, n)
    room = share.floor().long()
    fraction = (share - room)[order]
    odd = n - int(room.sum())
    if fraction.max() - fraction.min() < 2.0**-30:  # they may differ by rounding
        up = torch.arange(len(b), device=b.device) < odd
    else:
        passed = (running_sums(fraction) * (odd / fraction.sum().clamp(min=1e-300)) + 0.5).floor().long().clamp(max=odd)
        up = passed.diff(prepend=passed.new_zeros(1)) > 0
    room[order[up]] += 1
    assert int(room.sum()) == n
    return room


def _shares(b: Float[Tensor, " m"], n: int) -> Float[Tensor, " m"]:
    """Compute n b; a share that is an integer up to rounding must not lose one to the floor."""
    share = b.double() * n
    return torch.where((share - share.round()).abs() < 1e-9 * n, share.round(), share)


def balanced_draw(
    kernel: Logits, b: Float[Tensor, " m"], u: Float[Tensor, " n"], order: Int[Tensor, " m"], team: Team = SINGLE
) -> Int[Tensor, " n"]:
    """Draw a random assignment of rows to columns that uses column j n b_j times, rounded, and follows P(. | i).

    Entries of P(. | i) of at least 1 / KEPT are kept, and of the others as many as make up their mass, at random, with
    equal masses: a sparse coupling whose expectation is P. A block of up to ALL entries keeps all of them. The sparse
    coupling is scaled to the exact column sums and rounded without bias (pipeline/ot/partners/rounding.py). So a pair
    comes as often as P says, but for terms of 1 / KEPT in how a column's small entries share its correction.

    Args:
        kernel: logits with gamma in place.
        b: weights of the columns, float64 [m].
        u: uniforms in [0, 1), float64 [n].
        order: permutation of the columns; where rounding missed a column's count, the first in it make up for it.
        team: processes that share the rows; all get all partners.
    """
    n = len(u)
    used = b.nonzero()[:, 0]
    share = _shares(b[used], n)
    i, j, mass = _sparse(kernel.restrict(torch.arange(n, device=b.device), used), u, team)
    mass = _scaled(i, j, mass, share.cpu().numpy())
    chosen = round_masses(i, j, mass, n, np.ascontiguousarray(u.cpu().numpy()).tobytes())
    partners = used[torch.from_numpy(chosen).to(used.device)]
    low, high = torch.zeros_like(order), torch.zeros_like(order)
    low[used], high[used] = share.floor().long(), share.ceil().long()
    return _assign_surplus(kernel, _bounded(partners, low, high, order), partners)


def _bounded(
    partners: Int[Tensor, " n"], low: Int[Tensor, " m"], high: Int[Tensor, " m"], order: Int[Tensor, " m"]
) -> Int[Tensor, " m"]:
    """Move the columns' counts between their bounds, with the same sum; the first in `order` make up for others."""
    room = torch.bincount(partners, minlength=len(order)).clamp(min=low, max=high)
    missing = len(partners) - int(room.sum())
    free = order[(room < high if missing > 0 else room > low)[order]]
    room[free[: abs(missing)]] += 1 if missing > 0 else -1
    return room


def _sparse(
    kernel: Logits, u: Float[Tensor, " n"], team: Team
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Represent each row of P(. | i) by at most 2 KEPT entries, or by all of a small block; sorted by rows."""
    share = RowPartition(kernel.n, kernel.m, kernel.device, team)
    kept = min(kernel.m, max(KEPT, ALL // kernel.n))
    least = 1 / kept if kept < kernel.m else 0.0
    width = kernel.m if least == 0 else 2 * kept
    columns = torch.full((kernel.n, width), -1, dtype=torch.int32, device=kernel.device)
    masses = torch.zeros(kernel.n, width, dtype=torch.float32, device=kernel.device)

    def work(group: TileRun) -> None:
        buffer = workers.room(0, group[0].stop - group[0].start, kernel.m, kernel.empty)
        for rows in group:
            p = kernel.tile(rows, buffer)
            p.sub_(p.amax(1, keepdim=True)).exp2_()
            p.div_(p.sum(1, keepdim=True))
            row, column = (p >= least if least else p > 0).nonzero(as_tuple=True)
            position = _rank_within(row)
            columns[rows][row, position], masses[rows][row, position] = column.int(), p[row, column].float()
            if least == 0:
                continue
            p[row, column] = 0
            cumulative = p.cumsum(1, dtype=torch.float64)
            rest = cumulative[:, -1:]
            count = (rest * kept).ceil()
            step = torch.arange(kept, device=p.device)
            aim = (step + u[rows, None]) * rest / count.clamp(min=1)
            drawn = first_beyond(cumulative, aim)
            valid = step < count
            columns[rows, kept:] = torch.where(valid, drawn, -1).int()
            masses[rows, kept:] = (valid * rest / count.clamp(min=1)).float()

    with Workers(kernel.device) as workers:
        list(workers.map(work, share.groups()))
    columns, masses = share.gather(columns).cpu(), share.gather(masses).cpu()
    i, position = (masses > 0).nonzero(as_tuple=True)
    return i.numpy(), columns[i, position].long().numpy(), masses[i, position].double().numpy()


def _scaled(
    i: Int64[np.ndarray, " k"],
    j: Int64[np.ndarray, " k"],
    mass: Float64[np.ndarray, " k"],
    wanted: Float64[np.ndarray, " m"],
) -> Float64[np.ndarray, " k"]:
    """Scale rows and columns of a sparse matrix until its rows sum to 1 and its columns to `wanted`, or nearly."""
    from scipy.sparse import csr_array

    n = int(i[-1]) + 1
    plan = csr_array((mass, (i, j)), shape=(n, len(wanted)))
    transposed = plan.T.tocsr()
    x, anderson = torch.zeros(len(wanted), dtype=torch.float64), Anderson(SCALING_MEMORY)
    best, missed = x, math.inf
    for _ in range(SCALINGS):
        v = x.exp2().numpy()
        column = v * (transposed @ (1 / (plan @ v)))
        error = np.abs(column - wanted).sum() / 2
        if error < missed:
            best, missed = x, error
        if error < WHOLE:
            break
        image = x + torch.from_numpy(np.log2(wanted / column.clip(1e-9)))
        x = anderson.mix(x, image).clamp(-SCALED_AT_MOST, SCALED_AT_MOST)
    v = best.exp2().numpy()
    return mass * v[j] / (plan @ v)[i]


def _assign_surplus(kernel: Logits, room: Int[Tensor, " m"], partners: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Give the rows that a column has too many to columns that have too few, RESIDUAL at a time at the least cost."""
    over = (_rank_within(partners) >= room[partners]).nonzero()[:, 0]
    short = (room - torch.bincount(partners, minlength=len(room))).clamp(min=0)
    slots = torch.arange(len(room), device=room.device).repeat_interleave(short)
    if len(over):
        from scipy.optimize import linear_sum_assignment  # costs a third of torch's import: not in every actor

        for rows, columns in zip(over.split(RESIDUAL), slots.split(RESIDUAL), strict=True):
            rest = kernel.restrict(rows, columns)
            logits = rest.tile(slice(0, len(rows)), rest.empty(len(rows), len(columns)))
            best = linear_sum_assignment(logits.double().cpu().numpy(), maximize=True)[1]
            partners[rows] = columns[torch.from_numpy(best).to(columns.device)]
    return partners


def relabel(
    assignment: Assignment, x: Float64[Tensor, "n d"], partners: Int64[Tensor, " n"], room: Int64[Tensor, " m"]
) -> tuple[Int64[Tensor, " n"], int]:
    """Exchange the fewest partners so that each datum is used `room` times, first those that lose least by it.

    A datum used too often gives up only its surplus of points, which is the fewest possible. In each round each of its
    points asks for the best datum with capacity left; data give up, and take, the points that lose least.

    Args:
        assignment: assignment among the data.
        x: points [n, d].
        partners: current partners of the points [n].
        room: how often each datum is to be used [m], with sum n.

    Returns: the new partners, and how many of them changed.
    """
    partners, before = partners.clone(), partners
    surplus = torch.bincount(partners, minlength=len(room)) - room
    while bool((surplus > 0).any()):
        rows, wanting = (surplus[partners] > 0).nonzero()[:, 0], (surplus < 0).nonzero()[:, 0]
        asked = wanting[assignment.among(wanting).partners(x[rows], torch.zeros(len(rows), dtype=torch.float64)).cpu()]
        loss = assignment.worth(x[rows], partners[rows]).cpu() - assignment.worth(x[rows], asked).cpu()
        first = loss.argsort(stable=True)
        rows, asked = rows[first], asked[first]
        given = _rank_within(partners[rows]) < surplus[partners[rows]]
        rows, asked = rows[given], asked[given]
        taken = _rank_within(asked) < -surplus[asked]
        partners[rows[taken]] = asked[taken]
        surplus = torch.bincount(partners, minlength=len(room)) - room
    return partners, int((partners != before).sum())


def _rank_within(values: Int[Tensor, " k"]) -> Int[Tensor, " k"]:
    """Count, for each element, the earlier elements with the same value."""
    by_value = values.argsort(stable=True)
    grouped = values[by_value]
    first = torch.searchsorted(grouped, grouped)
    rank = torch.empty_like(values)
    rank[by_value] = torch.arange(len(values), device=values.device) - first
    return rank


def cheapest(problem: Problem, room: Int[Tensor, " m"]) -> Int[Tensor, " n"]:
    """Find the assignment of least total cost that uses column j `room[j]` times.

    With one unit per row and integer capacities every vertex of the transport polytope is an assignment, and the
    network simplex ends in a vertex.
    """
    import ot  # slow to import, and only this function needs it

    used = room.nonzero()[:, 0]
    cost = kernel_of(problem).dense()[:, used].cpu().numpy()
    plan = ot.emd(
        np.ones(problem.n), room[used].double().cpu().numpy(), cost / (np.abs(cost).max() or 1.0), numItermax=10**9
    )
    return used[torch.from_numpy(plan.argmax(1)).to(used.device)]
