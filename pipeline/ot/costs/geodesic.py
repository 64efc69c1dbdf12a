"""Costs looked up in a matrix, and geodesic costs by the heat kernel of a neighbour graph.

Heat that starts at x has spread to H_t(x, y) at y after a time t, and -4 t log H_t tends to the squared geodesic
distance as t tends to 0 (Varadhan). With that cost the Gibbs kernel at eps = 4 t is H_t itself, which is how geodesic
Sinkhorn is defined (arXiv 2211.00805). Here H_t is that of the graph that joins each point, of either side, to its
nearest neighbours.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TAIL = 1e-12  # share of the heat that may be missing
LONGEST = 500.0  # longest time of one sum, at which e^-t is still a float64


@dataclass(frozen=True)
class Lookup:
    """A cost function of row numbers: `points(n)` and `points(m)` stand for the two sides.

    Args:
        matrix: costs, source rows by target rows [n, m].
    """

    matrix: Float[Tensor, "n m"]

    def __call__(self, x0: Float[Tensor, "r 1"], x1: Float[Tensor, "c 1"]) -> Float[Tensor, "r c"]:
        """Look up the costs between some rows."""
        rows, columns = x0[:, 0].long(), x1[:, 0].long()
        return self.matrix[rows][:, columns]


def points(count: int, device: torch.device) -> Float32[Tensor, "count 1"]:
    """Make row numbers into points that `Lookup` takes; float32 holds those below 2^24."""
    return torch.arange(count, device=device, dtype=torch.float32)[:, None]


def geodesic_cost(
    x0: Float[np.ndarray, "n d"], x1: Float[np.ndarray, "m d"], neighbours: int, heat: float
) -> Float32[np.ndarray, "n m"]:
    """Compute -4 t log H_t(x0, x1) on the graph of both sides' points.

    An edge has the weight exp(-|x - y|^2 / (s_x s_y)), s the distance to the last neighbour, so that dense and thin
    regions count equally. H_t = exp(-t L) of the normalised Laplacian L = 1 - A is summed as e^-t sum_k t^k/k! A^k: no
    term is negative, so that heat far away, tiny as it is, keeps its digits. Memory is three times (n + m) m float64.

    Args:
        x0: source points.
        x1: target points.
        neighbours: number of neighbours per point; an edge needs only one of its ends to have the other as a neighbour.
        heat: t; the graph's distances are resolved up to about t edges.

    Raises:
        InputError: fewer points than neighbours, a graph in several parts, between which no heat flows, or one so long
            that the heat at its ends is below the smallest float64.
    """
    from scipy.sparse.csgraph import connected_components

    where = f"coupling.neighbours={neighbours}"
    every = np.concatenate([x0, x1]).astype(np.float64)
    if len(every) <= neighbours:
        raise InputError(f"{where}: a block has {len(every)} points; give fewer neighbours")
    adjacency = _adjacency(every, neighbours)
    parts, of = connected_components(adjacency, directed=False)
    if parts > 1:
        least = np.bincount(of).min()
        raise InputError(
            f"{where}: the graph of a block falls into {parts} parts, the smallest of {least} points, and no heat "
            "flows between them; give more neighbours"
        )
    start = np.zeros((len(every), len(x1)))
    start[len(x0) + np.arange(len(x1)), np.arange(len(x1))] = 1
    spread, legs = start, int(np.ceil(heat / LONGEST))
    for _ in range(legs):
        spread = _heat(adjacency, spread, heat / legs)
    return (-4 * heat * np.log(spread[: len(x0)])).astype(np.float32)


def _adjacency(every: Float64[np.ndarray, "N d"], neighbours: int) -> "csr_array":
    """Build A = D^-1/2 W D^-1/2 of the neighbour graph."""
    from scipy.sparse import coo_array, diags_array
    from scipy.spatial import KDTree

    distance, found = KDTree(every).query(every, neighbours + 1)
    own = np.maximum(distance[:, -1], np.finfo(np.float64).tiny ** 0.5)
    rows = np.repeat(np.arange(len(every)), neighbours + 1)
    columns = found.ravel()
    weight = np.exp(-(distance.ravel() ** 2) / (own[rows] * own[columns]))
    weight = np.maximum(weight, np.exp(-20.0))  # an edge of any length counts
    apart = rows != columns
    one_way = coo_array((weight[apart], (rows[apart], columns[apart])), (len(every),) * 2).tocsr()
    both = one_way.maximum(one_way.T)
    scale = diags_array(1 / np.sqrt(both.sum(1)))
    return (scale @ both @ scale).tocsr()


def _heat(adjacency: "csr_array", start: Float64[np.ndarray, "N m"], t: float) -> Float64[np.ndarray, "N m"]:
    """Compute exp(-t (1 - A)) of columns by its Poisson sum, until every entry is positive and at most TAIL is left."""
    term, total, weight = start, np.exp(-t) * start, np.exp(-t)
    k, left = 0, -np.expm1(-t)
    while left > TAIL or not total.all():
        if not weight:
            raise InputError(
                f"coupling.heat={t:g}: some points of a block are more than {k} edges apart, and no heat gets there; "
                "give more heat or more neighbours"
            )
        k += 1
        term = adjacency @ term
        weight *= t / k
        total += weight * term
        left -= weight
    return total
