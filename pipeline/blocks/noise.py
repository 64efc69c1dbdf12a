"""Random numbers by counter: the same bits on every machine, for every batch size and number of processes.

Every random number of a coupling job, and every order of reading in training, is a pure function of (seed, stream,
counter). The generator is Philox4x64-10 (Salmon et al., SC 2011) as numpy ships it, whose raw output is fixed by its
definition. Gaussians are computed from the raw words by the Box-Muller transform, with only IEEE-754 additions,
multiplications, divisions and square roots, each of which has one correctly rounded result; no libm, no fused
multiply-add, no rejection. So `seeded` stores can leave out the noise and regenerate it bit by bit, years later.
"""

from enum import IntEnum
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt32, UInt64

WORDS_PER_COUNTER = 4  # Philox4x64 yields four 64-bit words per counter, hence eight Gaussians
ROWS = 2**40  # source rows per seed; counters stay below 2^63 for rows of up to 2^26 numbers
_CHUNK = 2**16  # Gaussians computed at a time: the temporaries of a chunk stay in the L2 cache


class Stream(IntEnum):
    """Independent sequences of one seed: the second word of Philox's key."""

    NOISE = 0  # x0, counted by global source row
    EPOCH = 1  # the order in which an epoch goes through the data ids
    DRAW = 2  # the uniforms behind the drawn partners, counted by global source row
    BALANCE = 3  # which datum a balanced draw uses once more or less than the others
    CONDITION = 4  # the datum whose condition a source row takes, counted by global source row
    SOLVE, SOLVE_CONDITION = 5, 6  # points that a semi-discrete solve draws, and their conditions, by number
    SOURCE_EPOCH = 7  # the order in which an epoch goes through the ids of a source that is data
    ROWS = 8  # the rows of a side that have the pairs of a block, where they are not one each
    DIRECTIONS = 9  # the subspace from which principal directions are found
    PATH = 16  # noise around a pair's path in training, counted by step and row of the batch
    SHARDS = 17  # the order in which an epoch of training goes through the shards
    CUT = 18  # where an epoch of training cuts the circle of its pairs
    WINDOWS = 19  # the order of the pairs inside the windows of an epoch of training
    STARTS = 20  # what samples start from: noise, counted by sample, or an order of the data
    LABELS = 21  # the labels of samples, counted by sample


def words(seed: int, stream: Stream, first: int, counters: int, *, high: int = 0) -> UInt64[np.ndarray, " w"]:
    """Generate the raw words of `counters` consecutive Philox counters, four per counter.

    Args:
        seed: the job's seed, in [0, 2^63).
        stream: one of the seed's sequences.
        first: lowest 64-bit word of the first counter.
        counters: number of counters.
        high: highest 64-bit word of the counter, to address many sequences of one stream.
    """
    return np.random.Philox(key=[seed, int(stream)], counter=[first, 0, 0, high]).random_raw(
        counters * WORDS_PER_COUNTER
    )


def uniforms(seed: int, stream: Stream, first: int, count: int) -> Float64[np.ndarray, " count"]:
    """Generate uniforms in [0, 1) with 53 bits: number `first + i` depends on (seed, stream, first + i) alone."""
    raw = words(seed, stream, first, count)[::WORDS_PER_COUNTER]
    return (raw >> np.uint64(11)) * 2.0**-53


def permutation(seed: int, stream: Stream, size: int, *, first: int = 0, high: int = 0) -> Int64[np.ndarray, " size"]:
    """Draw a uniformly random order of range(size): that of the raw words `first` to `first + size`, smallest first.

    Args:
        seed: the job's seed.
        stream: one of the seed's sequences.
        size: how many numbers to order.
        first: number of the first word; each counter has four.
        high: highest 64-bit word of the counter.
    """
    counter, skip = divmod(first, WORDS_PER_COUNTER)
    raw = words(seed, stream, counter, -(-(skip + size) // WORDS_PER_COUNTER), high=high)[skip : skip + size]
    return np.argsort(raw, kind="stable")


def below(seed: int, stream: Stream, bound: int, *, high: int = 0) -> int:
    """Draw an integer in [0, bound), one for every `high`: the first raw word times bound, divided by 2^64."""
    return int(words(seed, stream, 0, 1, high=high)[0]) * bound >> 64


def gaussian(
    seed: int, first: int, rows: int, dim: int, stream: Stream = Stream.NOISE
) -> Float32[np.ndarray, "rows dim"]:
    """Generate source rows `first` to `first + rows` of standard Gaussian noise.

    Row r owns the counters [r w, (r + 1) w) with w = ceil(dim / 8), so any run of rows can be generated alone.

    Args:
        seed: the job's seed.
        first: global number of the first row.
        rows: number of rows.
        dim: numbers per row.
        stream: sequence of the seed.
    """
    width = -(-dim // (2 * WORDS_PER_COUNTER))
    out = np.empty((rows, dim), np.float32)
    step = max(1, _CHUNK // (8 * width))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        raw = words(seed, stream, (first + start) * width, count * width)
        _transform(raw.reshape(count, -1), out[start : start + count])
    return out


def gaussian_rows(seed: int, rows: Int64[np.ndarray, " k"], dim: int) -> Float32[np.ndarray, "k dim"]:
    """Generate the given source rows, in any order; each run of consecutive rows is drawn at once."""
    out, width = np.empty((len(rows), dim), np.float32), -(-dim // (2 * WORDS_PER_COUNTER))
    step = max(1, _CHUNK // (8 * width))
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        breaks = np.flatnonzero(np.diff(some) != 1) + 1
        runs = pairwise([0, *breaks.tolist(), len(some)])
        raw = [words(seed, Stream.NOISE, int(some[a]) * width, (b - a) * width) for a, b in runs]
        _transform(np.concatenate(raw).reshape(len(some), -1), out[first : first + step])
    return out


def _transform(raw: UInt64[np.ndarray, "r w"], out: Float32[np.ndarray, "r dim"]) -> None:
    """Make the Gaussians of rows out of their raw words."""
    dim, half = out.shape[1], raw.shape[1]
    pair = raw.astype("<u8", copy=False).view("<u4").reshape(len(raw), 2, half)
    cosine, sine = _box_muller(pair[:, 0], pair[:, 1])
    low = min(dim, half)
    out[:, :low] = cosine[:, :low]
    out[:, low:] = sine[:, : dim - low]


def _box_muller(
    radial: UInt32[np.ndarray, "r h"], angular: UInt32[np.ndarray, "r h"]
) -> tuple[Float32[np.ndarray, "r h"], Float32[np.ndarray, "r h"]]:
    """Make two independent Gaussians out of two 32-bit words: sqrt(-2 ln u) times a point of the unit circle."""
    u = radial.astype(np.float32)
    u += np.float32(0.5)
    u *= np.float32(2.0**-32)  # in [2^-33, 1]: radii up to 6.8
    radius = _minus_two_log(u)
    np.sqrt(radius, out=radius)
    radius.view(np.uint32)[...] ^= angular & np.uint32(0x80000000)  # the top bit picks the half-circle
    cosine, sine = _eighth_turns((angular << np.uint32(2)).view(np.int32))
    # The next bit mirrors at the diagonal: it swaps the two, by their bits, since np.where costs ten passes.
    swapped = (angular << np.uint32(1)).view(np.int32) >> np.int32(31)
    swapped &= cosine.view(np.int32) ^ sine.view(np.int32)
    for side in (cosine, sine):
        side.view(np.int32)[...] ^= swapped
        side *= radius
    return cosine, sine


def _minus_two_log(u: Float32[np.ndarray, "r h"]) -> Float32[np.ndarray, "r h"]:
    """Compute -2 ln u within 2e-7 relative: u = 2^e m, m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1)/(m + 1))."""
    offset = np.int32(0x3F3504F3)  # the bits of sqrt(1/2)
    bits = u.view(np.int32) - offset
    exponent = (bits >> np.int32(23)).astype(np.float32)
    bits &= np.int32(0x7FFFFF)
    bits += offset
    m = bits.view(np.float32)
    s = m - np.float32(1)
    m += np.float32(1)
    s /= m
    series = _polynomial(s * s, (1.0, 1 / 3, 1 / 5, 1 / 7, 1 / 9))
    series *= s
    series *= np.float32(-4)
    exponent *= np.float32(-2 * 0.6931471805599453)
    exponent += series
    return exponent


def _eighth_turns(k: np.ndarray) -> tuple[Float32[np.ndarray, "r h"], Float32[np.ndarray, "r h"]]:
    """Compute cos and sin of y = k 2^-31 pi/4, |y| <= pi/4, within 1e-7."""
    y = k.astype(np.float32)
    y *= np.float32(np.pi / 4 * 2.0**-31)
    z = y * y
    cosine = _polynomial(z, (1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320))
    sine = _polynomial(z, (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880))
    sine *= y
    return cosine, sine


def _polynomial(z: Float32[np.ndarray, "r h"], coefficients: tuple[float, ...]) -> Float32[np.ndarray, "r h"]:
    """Evaluate by Horner's rule in float32, lowest coefficient first, with every operation rounded by itself."""
    out = z * np.float32(coefficients[-1])
    for c in coefficients[-2:0:-1]:
        out += np.float32(c)
        out *= z
    out += np.float32(coefficients[0])
    return out
