"""The kernels: logits of a tile from halves of the points by tensor cores, reduced where they are.

    logit_ij = scale * (x_i . y_j) + gamma_j    in bits;    x = (xh + xl), y = (yh + yl), without the product xl yl

A program takes BM rows and one chunk of columns, the chunk a tile of BN columns at a time, and K features BK at a time.
What it finds of a row is written for the row and the chunk, and added over chunks by the caller, in their order. What
it finds of a column is added as an integer, whose order does not matter. So bits depend on the tiles' shape, on the
chunks and on the rows' blocks, and on nothing else: not on the grid, the chip's size or the processes that share the
rows.
Outside m a logit is NOTHING, below any of a column without weight, so that no sum meets a NaN.

This module imports Triton: import it where a kernel is launched.
"""

# Triton reads shapes from the kernels themselves; their arguments carry no annotations but tl.constexpr.
import triton
import triton.language as tl

NOTHING = tl.constexpr(-2e30)
UNIT = tl.constexpr(4611686018427387904.0)  # 2^62: pipeline/ot/tiles/partition.py's integer for a mass of 1


@triton.jit
def _add_products(s, ah, al, yh, yl, at, there):
    """Add the products of rows' halves and of the columns' halves at some addresses, features by columns."""
    bh = tl.load(yh + at, mask=there, other=0.0)
    bl = tl.load(yl + at, mask=there, other=0.0)
    s = tl.dot(al, bh, s)
    s = tl.dot(ah, bl, s)
    return tl.dot(ah, bh, s)


@triton.jit
def _products(
    xh, xl, yh, yl, row0, col0, n, stop, ah, al, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):
    """Products of BM rows from row0 and BN columns from col0; ah, al are the rows where they fit one step."""
    ks = tl.arange(0, BK)
    rows = tl.arange(0, BM)
    cols = tl.arange(0, BN)
    inside = (row0 + rows < n)[:, None]
    there = (col0 + cols < stop)[None, :]
    left = tl.full([], row0, tl.int64) * K
    right = tl.full([], col0, tl.int64) * K
    s = tl.zeros([BM, BN], tl.float32)
    if K == BK:
        s = _add_products(s, ah, al, yh + right, yl + right, cols[None, :] * K + ks[:, None], there)
    else:
        for k0 in range(0, K, BK):
            own = rows[:, None] * K + k0 + ks[None, :]
            at = cols[None, :] * K + k0 + ks[:, None]
            ch = tl.load(xh + left + own, mask=inside, other=0.0)
            cl = tl.load(xl + left + own, mask=inside, other=0.0)
            s = _add_products(s, ch, cl, yh + right, yl + right, at, there)
    return s


@triton.jit
def _first_step(xh, xl, row0, n, K: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    """The rows' first BK features: all of them where K = BK."""
    rows = tl.arange(0, BM)
    at = tl.full([], row0, tl.int64) * K + rows[:, None] * K + tl.arange(0, BK)[None, :]
    inside = (row0 + rows < n)[:, None]
    return tl.load(xh + at, mask=inside, other=0.0), tl.load(xl + at, mask=inside, other=0.0)


@triton.jit
def _chunk(m, width):
    """First column of this program's chunk and the one past its last."""
    chunk = tl.program_id(1)
    return chunk * width, tl.where(chunk == tl.num_programs(1) - 1, m, (chunk + 1) * width)


@triton.jit
def log_sum_kernel(
    xh,
    xl,
    yh,
    yl,
    gamma,
    top,
    rest,
    n,
    m,
    width,
    scale,
    K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Of every row and chunk the largest logit, and the sum of 2^(logit - largest)."""
    row0 = tl.program_id(0) * BM
    start, stop = _chunk(m, width)
    ah, al = _first_step(xh, xl, row0, n, K, BM, BK)
    high = tl.full([BM], NOTHING, tl.float32)
    total = tl.zeros([BM], tl.float32)
    for col0 in range(start, stop, BN):
        cols = col0 + tl.arange(0, BN)
        s = _products(xh, xl, yh, yl, row0, col0, n, stop, ah, al, K, BM, BN, BK)
        logit = s * scale + tl.load(gamma + cols, mask=cols < stop, other=NOTHING)[None, :]
        new = tl.maximum(high, tl.max(logit, 1))
        total = total * tl.exp2(high - new) + tl.sum(tl.exp2(logit - new[:, None]), 1)
        high = new
    rows = row0 + tl.arange(0, BM)
    out = rows * tl.num_programs(1) + tl.program_id(1)
    tl.store(top + out, high, mask=rows < n)
    tl.store(rest + out, total, mask=rows < n)


@triton.jit
def sweep_kernel(
    xh,
    xl,
    yh,
    yl,
    gamma,
    ref,
    weight,
    low,
    columns,
    mass,
    moment,
    flags,
    n,
    m,
    width,
    words,
    scale,
    K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    FLAGS: tl.constexpr,
):
    """Of w = 2^(logit - ref) its sum and that of w (logit - ref) for every row and chunk, and sum_i weight_i w_ij.

    flags has a bit for every row and tile of the chunk in which some logit - ref is at least the row's `low`.
    """
    row0 = tl.program_id(0) * BM
    start, stop = _chunk(m, width)
    rows = row0 + tl.arange(0, BM)
    r = tl.load(ref + rows, mask=rows < n, other=1e30)  # past n every 2^(logit - ref) is 0
    a = tl.load(weight + rows, mask=rows < n, other=0.0)
    bound = tl.load(low + rows, mask=rows < n, other=1e30)
    ah, al = _first_step(xh, xl, row0, n, K, BM, BK)
    total = tl.zeros([BM], tl.float32)
    first = tl.zeros([BM], tl.float32)
    out = rows * tl.num_programs(1) + tl.program_id(1)
    for word0 in range(start, stop, 32 * BN):
        word = tl.zeros([BM], tl.int32)
        for t in range(0, tl.minimum(32, tl.cdiv(stop - word0, BN))):
            col0 = word0 + t * BN
            cols = col0 + tl.arange(0, BN)
            s = _products(xh, xl, yh, yl, row0, col0, n, stop, ah, al, K, BM, BN, BK)
            g = tl.load(gamma + cols, mask=cols < stop, other=NOTHING)
            logit = s * scale + (g[None, :] - r[:, None])
            w = tl.exp2(logit)
            total += tl.sum(w, 1)
            first += tl.sum(w * logit, 1)
            part = tl.sum(w * a[:, None], 0).to(tl.float64) * UNIT
            tl.atomic_add(columns + cols, part.to(tl.int64), mask=cols < stop, sem="relaxed")
            if FLAGS:
                word |= (tl.max(logit, 1) >= bound).to(tl.int32) << t
        if FLAGS:
            tl.store(flags + out * words + (word0 - start) // (32 * BN), word, mask=rows < n)
    tl.store(mass + out, total, mask=rows < n)
    tl.store(moment + out, first, mask=rows < n)


@triton.jit
def argmax_kernel(
    xh,
    xl,
    yh,
    yl,
    gamma,
    best,
    where,
    second,
    n,
    m,
    width,
    scale,
    K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Of every row and chunk the largest logit, its first column, and the largest logit of the other columns."""
    row0 = tl.program_id(0) * BM
    start, stop = _chunk(m, width)
    ah, al = _first_step(xh, xl, row0, n, K, BM, BK)
    high = tl.full([BM], NOTHING, tl.float32)
    other = tl.full([BM], NOTHING, tl.float32)
    column = tl.zeros([BM], tl.int32)
    for col0 in range(start, stop, BN):
        cols = col0 + tl.arange(0, BN)
        s = _products(xh, xl, yh, yl, row0, col0, n, stop, ah, al, K, BM, BN, BK)
        logit = s * scale + tl.load(gamma + cols, mask=cols < stop, other=NOTHING)[None, :]
        top, at = tl.max(logit, 1, return_indices=True)
        below = tl.max(tl.where(tl.arange(0, BN)[None, :] == at[:, None], NOTHING, logit), 1)
        other = tl.maximum(tl.maximum(other, below), tl.minimum(high, top))
        column = tl.where(top > high, col0 + at, column)
        high = tl.maximum(high, top)
    rows = row0 + tl.arange(0, BM)
    out = rows * tl.num_programs(1) + tl.program_id(1)
    tl.store(best + out, high, mask=rows < n)
    tl.store(where + out, column, mask=rows < n)
    tl.store(second + out, other, mask=rows < n)


@triton.jit
def gather_kernel(
    xh,
    xl,
    yh,
    yl,
    gamma,
    ref,
    rows,
    firsts,
    stops,
    logits,
    n,
    scale,
    K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Logits less ref [programs BM, BN] of BM listed rows and the BN columns from a program's first to before its stop.

    A listed row of n is none.
    """
    program = tl.program_id(0)
    own = tl.load(rows + program * BM + tl.arange(0, BM))
    col0 = tl.load(firsts + program)
    stop = tl.load(stops + program)
    cols = col0 + tl.arange(0, BN)
    there = (cols < stop)[None, :]
    inside = (own < n)[:, None]
    ks = tl.arange(0, BK)
    left = own.to(tl.int64)[:, None] * K
    right = tl.full([], col0, tl.int64) * K
    s = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        at = (cols - col0)[None, :] * K + k0 + ks[:, None]
        ch = tl.load(xh + left + k0 + ks[None, :], mask=inside, other=0.0)
        cl = tl.load(xl + left + k0 + ks[None, :], mask=inside, other=0.0)
        s = _add_products(s, ch, cl, yh + right, yl + right, at, there)
    g = tl.load(gamma + cols, mask=cols < stop, other=NOTHING)
    logit = s * scale + (g[None, :] - tl.load(ref + own, mask=own < n, other=0.0)[:, None])
    out = (program * BM + tl.arange(0, BM)).to(tl.int64)[:, None] * BN + tl.arange(0, BN)[None, :]
    tl.store(logits + out, logit)
