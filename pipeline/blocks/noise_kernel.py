"""The noise of pipeline/blocks/noise.py as one Triton kernel: nothing but the Gaussians themselves is written.

Its bits are the pair format's, so nothing may be contracted: `launch` compiles it without fused multiply-adds, and
divisions and square roots are the correctly rounded ones. Constants stand for what float32 makes of those in noise.py.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int64
from torch import Tensor

COUNTERS = 64  # of a row's radial half that a program works on: 512 pairs of Gaussians


@triton.jit
def _philox(counter, key0, key1):
    """Compute the four words of each counter."""
    x0 = counter.to(tl.uint64)
    zero = x0 * 0
    x1, x2, x3 = zero, zero, zero
    m0, m1 = zero + 0xD2E7470EE14C6C93, zero + 0xCA5A826395121157
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(x0, m0), x0 * m0
        high1, low1 = tl.umulhi(x2, m1), x2 * m1
        x0, x1, x2, x3 = high1 ^ x1 ^ key0, low1, high0 ^ x3 ^ key1, low0
        key0 = key0 + 0x9E3779B97F4A7C15
        key1 = key1 + 0xBB67AE8584CAA73B
    return x0, x1, x2, x3


@triton.jit
def _halves(x0, x1, x2, x3, COUNT: tl.constexpr):
    """List the 32-bit halves of the words of COUNT counters, in the order of the counters."""
    words = tl.reshape(tl.permute(tl.join(tl.join(x0, x1), tl.join(x2, x3)), (0, 2, 1)), [4 * COUNT])
    return tl.reshape(tl.join((words & 0xFFFFFFFF).to(tl.uint32), (words >> 32).to(tl.uint32)), [8 * COUNT])


@triton.jit(do_not_specialize=["seed", "stream"])
def gaussian_kernel(out, rows, seed, stream, width, dim, ODD: tl.constexpr, COUNT: tl.constexpr):
    """Fill the part of row `rows[i]` that COUNT counters of its radial half make, with the angular ones.

    The angular half begins `width / 2` counters after the radial one: within a counter where the width is odd.
    """
    i = tl.program_id(0).to(tl.int64)
    counter = tl.program_id(1) * COUNT + tl.arange(0, COUNT)
    first = tl.load(rows + i) * width + 1 + counter  # numpy counts, then draws
    zero = counter.to(tl.uint64) * 0
    key0, key1 = zero + seed.to(tl.uint64), zero + stream.to(tl.uint64)
    x0, x1, x2, x3 = _philox(first, key0, key1)
    radial = _halves(x0, x1, x2, x3, COUNT)
    x0, x1, x2, x3 = _philox(first + width // 2, key0, key1)
    if ODD:
        y0, y1, _, _ = _philox(first + width // 2 + 1, key0, key1)
        x0, x1, x2, x3 = x2, x3, y0, y1
    angular = _halves(x0, x1, x2, x3, COUNT)

    u = (radial.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    bits = u.to(tl.int32, bitcast=True) - 0x3F3504F3
    exponent = (bits >> 23).to(tl.float32)
    m = ((bits & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True)
    s = tl.div_rn(m - 1.0, m + 1.0)
    z = s * s
    series = z * 0.1111111119389534 + 0.1428571492433548
    series = series * z + 0.20000000298023224
    series = series * z + 0.3333333432674408
    series = series * z + 1.0
    radius = tl.sqrt_rn(exponent * -1.3862943649291992 + (series * s) * -4.0)
    radius = tl.where(angular >> 31 == 1, -radius, radius)
    y = (angular << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.6572951981170604e-10
    z = y * y
    cosine = z * 2.4801587642286904e-05 + -0.0013888889225199819
    cosine = cosine * z + 0.0416666679084301
    cosine = cosine * z + -0.5
    cosine = cosine * z + 1.0
    sine = z * 2.755731884462875e-06 + -0.00019841270113829523
    sine = sine * z + 0.008333333767950535
    sine = sine * z + -0.1666666716337204
    sine = (sine * z + 1.0) * y
    swapped = (angular >> 30) & 1 == 1
    at = tl.program_id(1) * COUNT * 8 + tl.arange(0, 8 * COUNT)
    half = 4 * width
    row = out + i * dim
    tl.store(row + at, tl.where(swapped, sine, cosine) * radius, mask=(at < half) & (at < dim))
    tl.store(row + half + at, tl.where(swapped, cosine, sine) * radius, mask=(at < half) & (half + at < dim))


def launch(out: Float32[Tensor, "k dim"], rows: Int64[Tensor, " k"], seed: int, stream: int) -> None:
    """Fill `out` with the source rows `rows` of a seed's stream, both on one CUDA device."""
    dim = out.shape[1]
    width = -(-dim // 8)
    if not out.numel():
        return
    with torch.cuda.device_of(out):
        gaussian_kernel[len(rows), -(-width // (2 * COUNTERS))](
            out, rows, seed, stream, width, dim, width % 2 == 1, COUNTERS, num_warps=4, enable_fp_fusion=False
        )
