"""Noise of source rows on any device of torch, in the bits of pipeline/blocks/noise.py.

A kernel makes it on CUDA where Triton is installed; elsewhere torch does, one operation at a time, in the same bits:
Philox4x64-10 in 64-bit integers, which wrap as they should; the Box-Muller transform with one operation a kernel, so
that nothing is contracted to a fused multiply-add. Divisions are by tensors: by a number, torch multiplies with its
reciprocal on a GPU.
"""

from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from flowpairs.pipeline.blocks.noise import WORDS_PER_COUNTER, Stream

ROUNDS = 10
MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
KEYS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # added to the key in every round
LOW, WORD = 2**32 - 1, 2**64
SQRT_HALF = 0x3F3504F3  # the bits of sqrt(1/2)
LN_2 = 0.6931471805599453
CHUNK = 2**22  # Gaussians computed at a time: some hundred bytes of integers each


def device_gaussian(
    seed: int, rows: Int64[Tensor, " k"], dim: int, stream: Stream = Stream.NOISE
) -> Float32[Tensor, "k dim"]:
    """Generate the given source rows, in any order, on the device of `rows`; see `flowpairs.pipeline.blocks.noise`.

    Args:
        seed: the job's seed.
        rows: global numbers of the rows.
        dim: numbers per row.
        stream: sequence of the seed.
    """
    width = -(-dim // (2 * WORDS_PER_COUNTER))
    out = torch.empty((len(rows), dim), dtype=torch.float32, device=rows.device)
    if rows.is_cuda and find_spec("triton") is not None:
        from flowpairs.pipeline.blocks.noise_kernel import launch

        launch(out, rows, seed, int(stream))
        return out
    step = max(1, CHUNK // (2 * WORDS_PER_COUNTER * width))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        counters = some[:, None] * width + torch.arange(1, width + 1, device=rows.device)  # numpy counts, then draws
        words = _philox(seed, int(stream), counters.reshape(-1))
        halves = torch.stack([words & LOW, (words >> 32) & LOW], 2).reshape(len(some), 2, WORDS_PER_COUNTER * width)
        both = torch.cat(_box_muller(halves[:, 0], halves[:, 1]), 1)
        out[start : start + step] = both[:, :dim]
    return out


def _philox(seed: int, stream: int, counters: Int64[Tensor, " c"]) -> Int64[Tensor, "c 4"]:
    """Compute the four words of each counter."""
    zero = torch.zeros_like(counters)
    x, key = [counters, zero, zero, zero], (seed, stream)
    for _ in range(ROUNDS):
        (high0, low0), (high1, low1) = _product(MULTIPLIERS[0], x[0]), _product(MULTIPLIERS[1], x[2])
        x = [high1 ^ x[1] ^ _signed(key[0]), low1, high0 ^ x[3] ^ _signed(key[1]), low0]
        key = (key[0] + KEYS[0]) % WORD, (key[1] + KEYS[1]) % WORD
    return torch.stack(x, 1)


def _product(a: int, b: Int64[Tensor, " c"]) -> tuple[Int64[Tensor, " c"], Int64[Tensor, " c"]]:
    """Multiply unsigned 64-bit words; return the high and the low word."""
    a0, a1, b0, b1 = a & LOW, a >> 32, b & LOW, (b >> 32) & LOW
    low, cross0, cross1, high = b0 * a0, b1 * a0, b0 * a1, b1 * a1
    middle = ((low >> 32) & LOW) + (cross0 & LOW) + (cross1 & LOW)
    return high + ((cross0 >> 32) & LOW) + ((cross1 >> 32) & LOW) + (middle >> 32), b * _signed(a)


def _signed(word: int) -> int:
    """Write an unsigned 64-bit word as a signed one."""
    return word - WORD if word >= WORD // 2 else word


def _box_muller(radial: Int64[Tensor, "r h"], angular: Int64[Tensor, "r h"]) -> list[Float32[Tensor, "r h"]]:
    """Make two Gaussians out of two 32-bit words, as `flowpairs.pipeline.blocks.noise` does."""
    u = (radial.to(torch.float32) + 0.5) * 2.0**-32
    radius = _minus_two_log(u).double().sqrt().float()  # through float64: torch's float32 root may be off by a bit
    radius = torch.where((angular >> 31) & 1 == 1, -radius, radius)
    turns = (angular << 2) & LOW
    turns = torch.where(turns >= 2**31, turns - 2**32, turns)
    y = turns.to(torch.float32) * _single(np.pi / 4 * 2.0**-31)
    z = y * y
    cosine = _polynomial(z, (1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320))
    sine = _polynomial(z, (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880)) * y
    swapped = (angular >> 30) & 1 == 1
    return [torch.where(swapped, sine, cosine) * radius, torch.where(swapped, cosine, sine) * radius]


def _minus_two_log(u: Float32[Tensor, "r h"]) -> Float32[Tensor, "r h"]:
    """Compute -2 ln u within 2e-7 relative."""
    bits = u.view(torch.int32) - SQRT_HALF
    exponent = (bits >> 23).to(torch.float32)
    m = ((bits & 0x7FFFFF) + SQRT_HALF).view(torch.float32)
    s = (m - 1.0) / (m + 1.0)
    series = _polynomial(s * s, (1.0, 1 / 3, 1 / 5, 1 / 7, 1 / 9)) * s * -4.0
    return exponent * _single(-2 * LN_2) + series


def _polynomial(z: Float32[Tensor, "r h"], coefficients: tuple[float, ...]) -> Float32[Tensor, "r h"]:
    """Evaluate by Horner's rule in float32, lowest coefficient first, with every operation rounded by itself."""
    out = z * _single(coefficients[-1])
    for c in coefficients[-2:0:-1]:
        out = out + _single(c)
        out = out * z
    return out + _single(coefficients[0])


def _single(value: float) -> float:
    """Round a constant to float32."""
    return float(np.float32(value))
