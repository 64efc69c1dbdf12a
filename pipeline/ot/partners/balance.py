"""Balanced draws: one target row per source row, and every target row used as often as its weight says.

`fill` and `cheapest` draw from a block's coupling; `relabel` corrects a semi-discrete assignment.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from flowpairs.pipeline.ot.backends.protocol import TORCH, Backend
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.semidiscrete.assign import Assignment
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team

RESIDUAL = 1024  # remaining rows that are assigned at once, at the least cost


def capacities(b: Float[Tensor, " m"], n: int, order: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
    """Round n b to integers that sum to n, by largest remainder; ties go to the first in `order`."""
    share = b.double() * n
    # A share that is an integer up to rounding must not lose one to the floor.
    share = torch.where((share - share.round()).abs() < 1e-9 * n, share.round(), share)
    room = share.floor().long()
    remainder = (share - room)[order]
    # Equal weights may have remainders that differ by rounding.
    odd = n - int(room.sum())
    rank = remainder.mul(2**30).round().argsort(descending=True, stable=True)
    room[order[rank[:odd]]] += 1
    assert int(room.sum()) == n
    return room


def fill(
    kernel: Logits,
    room: Int[Tensor, " m"],
    u: Float[Tensor, " n"],
    team: Team = SINGLE,
    backend: Backend = TORCH,
) -> Int[Tensor, " n"]:
    """Draw in rounds among the columns with capacity left; the last rows are assigned at the least cost.

    In each round every open row draws; a column drawn by more rows than its capacity keeps some of them at random, and
    the others stay open. Later rounds need fresh uniforms, which come from a generator seeded by `u`.

    Args:
        kernel: logits with gamma in place.
        room: how often each column is to be used [m], with sum n.
        u: uniforms in [0, 1), float64 [n].
        team: processes that share the draws; all get all partners.
        backend: backend that draws.
    """
    fresh = np.random.default_rng(u.cpu().numpy().view(np.uint64))
    room = room.clone()
    partners = torch.empty_like(u, dtype=torch.int64)
    rows = torch.arange(len(u), device=u.device)
    while len(rows) > RESIDUAL:
        columns = room.nonzero()[:, 0]
        drawn = columns[backend.draw(kernel.restrict(rows, columns), u, team)]
        shuffled = torch.from_numpy(fresh.permutation(len(rows))).to(u.device)
        kept = shuffled[_rank_within(drawn[shuffled]) < room[drawn[shuffled]]]
        partners[rows[kept]] = drawn[kept]
        room -= torch.bincount(drawn[kept], minlength=len(room))
        left = torch.ones(len(rows), dtype=torch.bool, device=u.device)
        left[kept] = False
        rows = rows[left]
        u = torch.from_numpy(fresh.random(len(rows))).to(u.device)
    if len(rows):
        from scipy.optimize import linear_sum_assignment  # costs a third of torch's import: not in every actor

        slots = torch.arange(len(room), device=room.device).repeat_interleave(room)
        rest = kernel.restrict(rows, slots)
        logits = rest.tile(slice(0, len(rows)), rest.empty(len(rows), len(slots)))
        columns = linear_sum_assignment(logits.double().cpu().numpy(), maximize=True)[1]
        partners[rows] = slots[torch.from_numpy(columns).to(slots.device)]
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
    plan = ot.emd(np.ones(problem.n), room[used].double().cpu().numpy(), cost, numItermax=10**9)
    return used[torch.from_numpy(plan.argmax(1)).to(used.device)]
