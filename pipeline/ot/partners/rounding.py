"""Unbiased rounding of a sparse coupling to whole pairs: every entry becomes a pair as often as its mass says.

This is dependent rounding of a bipartite graph (Gandhi, Khuller, Parthasarathy and Srinivasan, J. ACM 53, 2006; for a
doubly stochastic matrix a draw from one of its Birkhoff-von Neumann decompositions), bit by bit: masses are multiples
of 2^-BITS, and the entries whose last bit is set form a graph in which every row, and every column of whole mass, has
an even degree. Such a graph falls into even cycles. Along each of them the masses go up and down by one unit in turn,
which of the two by a fair coin, so no sum and no expectation changes and every mass is even. After BITS such steps the
masses are 0 or 1. Every step is a few operations on vectors of entries; a fixed order makes the result reproducible.
"""

import hashlib

import numpy as np
from jaxtyping import Bool, Float64, Int64

BITS = 22  # a row's mass is 2^BITS units


def round_masses(
    i: Int64[np.ndarray, " k"], j: Int64[np.ndarray, " k"], mass: Float64[np.ndarray, " k"], n: int, seed: bytes
) -> Int64[np.ndarray, " n"]:
    """Choose one entry per row, each with the probability of its mass, and column sums as whole as theirs.

    A column whose masses sum to a whole number is chosen as often, but for the rounding of masses to units; other
    columns are chosen as often as their sum says, rounded up or down.

    Args:
        i: rows of the entries, in increasing order, each at least once.
        j: columns of the entries; entries of the same row and column count as several.
        mass: masses of the entries, which sum to 1 in each row.
        n: number of rows.
        seed: what the coins are a function of.

    Returns: the column of each row [n].
    """
    units = _units(i, mass, n)
    by_column = np.argsort(j, kind="stable")
    for bit in range(BITS):
        odd = (units & 1).astype(bool)
        if not odd.any():
            units >>= 1
            continue
        edges = np.flatnonzero(odd)
        position = np.empty(len(units), np.int64)
        position[edges] = np.arange(len(edges))
        order = by_column[odd[by_column]]
        up = _alternate(_column_mates(position[order], j[order]), _coins(seed, bit, len(edges)))
        units[edges] += np.where(up, 1, -1)
        units >>= 1
        if bit % 4 == 3:  # most entries are soon without mass
            left = units > 0
            number = np.cumsum(left) - 1
            by_column = number[by_column[left[by_column]]]
            i, j, units = i[left], j[left], units[left]
    chosen = np.empty(n, np.int64)
    chosen[i[units > 0]] = j[units > 0]
    return chosen


def _units(i: Int64[np.ndarray, " k"], mass: Float64[np.ndarray, " k"], n: int) -> Int64[np.ndarray, " k"]:
    """Convert masses to units that sum to 2^BITS in each row, each rounded up or down."""
    finals = np.flatnonzero(np.diff(i, append=n))  # the last entry of each row
    total = np.cumsum(mass)
    before = np.concatenate([[0.0], total[finals[:-1]]])
    reached = np.rint((total - before[i]) / (total[finals] - before)[i] * 2**BITS).astype(np.int64)
    units = np.diff(reached, prepend=0)
    starts = np.concatenate([[0], finals[:-1] + 1])
    units[starts] = reached[starts]
    return units


def _column_mates(order: Int64[np.ndarray, " k"], columns: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
    """Pair up the entries of each column; where a column has one too many, that one with another column's.

    Args:
        order: the entries, sorted by columns.
        columns: their columns, in that order.
    """
    last = np.flatnonzero(np.diff(columns, append=-1))
    counts = np.diff(last, prepend=-1)
    single = last[counts % 2 == 1]
    paired = np.ones(len(order), bool)
    paired[single] = False
    order = np.concatenate([order[paired], order[single]])
    mates = np.empty_like(order)
    mates[order[0::2]], mates[order[1::2]] = order[1::2], order[0::2]
    return mates


def _alternate(mates: Int64[np.ndarray, " k"], coins: Bool[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    """Mark every other entry of each cycle, by a coin per cycle.

    Entries 2k and 2k + 1 are of one row, and entries e and mates[e] of one column: a cycle changes from one to the
    other. Every second entry of it belongs to one orbit of the step over a row and then a column, and the rest to
    another; an orbit is known by its least entry, which pointers of doubling length find.
    """
    entries = np.arange(len(mates))
    least, step = entries, mates[entries ^ 1]
    while True:
        further = np.minimum(least, least[step])
        if np.array_equal(further, least):
            break
        least, step = further, step[step]
    other = least[entries ^ 1]
    return coins[np.minimum(least, other)] ^ (least < other)


def _coins(seed: bytes, bit: int, count: int) -> Bool[np.ndarray, " count"]:
    """Toss coins: the bits of raw Philox words, whose key is a hash of the seed and the number of the step."""
    key = np.frombuffer(hashlib.blake2b(seed + bytes([bit]), digest_size=16).digest(), "<u8")
    words = np.random.Philox(key=key).random_raw(-(-count // 64))
    return np.unpackbits(words.astype("<u8").view(np.uint8))[:count].astype(bool)
