"""Equal rows of a matrix, found by a hash of their bits and then compared."""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

HASHED = 2**22  # numbers that are hashed at a time
ODD = 0x9E3779B97F4A7C15 - 2**64  # 2^64 over the golden ratio, as int64: its multiples spread over all bits


class EqualRows(NamedTuple):
    """The distinct rows of a matrix.

    Attributes:
        first: the first row of each kind, in increasing order [k].
        kind: which of these each row equals [n].
    """

    first: Int64[Tensor, " k"]
    kind: Int64[Tensor, " n"]


def equal_rows(y: Float[Tensor, "n d"]) -> EqualRows:
    """Find which rows are equal in every number, -0 and 0 being equal; O(n log n + n d) time, O(n) memory."""
    n, d = y.shape
    multiples = torch.arange(1, 2 * d, 2, device=y.device) * ODD
    step = max(1, HASHED // d)
    marks = []
    for low, high in pairwise([*range(0, n, step), n]):
        bits = (y[low:high] + 0.0).view(torch.int64 if y.dtype == torch.float64 else torch.int32).long()
        bits = (bits ^ (bits >> 29)) * multiples  # integers wrap
        marks.append((bits ^ (bits >> 32)).sum(1))
    mark = torch.cat(marks)
    order = mark.argsort(stable=True)
    new = torch.ones(n, dtype=torch.bool, device=y.device)
    alike = (mark[order[1:]] == mark[order[:-1]]).nonzero()[:, 0]
    for part in alike.split(step):
        new[part + 1] = (y[order[part + 1]] != y[order[part]]).any(1)
    first = order[new]
    rank = torch.empty_like(first)
    rank[first.argsort()] = torch.arange(len(first), device=y.device)
    kind = torch.empty_like(order)
    kind[order] = rank[new.cumsum(0) - 1]
    return EqualRows(first.sort().values, kind)
