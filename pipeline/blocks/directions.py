"""Principal directions of data of any number and width, read a chunk at a time.

Up to WIDE numbers a datum, the covariance is summed and its leading eigenvectors are taken; of uint8 data the sums are
integers and exact. Above, a random subspace is multiplied by the covariance until the variance that it holds no longer
grows (randomised subspace iteration: Halko, Martinsson and Tropp 2011, algorithm 4.4), and the directions are the best
inside it. Products have fixed shapes and one thread each, so the bits do not depend on the number of threads.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped

from flowpairs.pipeline.base.threads import map_in_threads, single_threaded
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.features import Features
from flowpairs.pipeline.data.rows.rows import Rows, in_model_space

MOST_ROWS = 65_536  # mean and directions come from at most this many evenly spaced data of a side
WIDE = 4_096  # numbers a datum from which a subspace is iterated
EXACT_ROWS = 1_024  # products of numbers in [-128, 127] of this many rows are integers that float32 holds exactly
SPARE = 20  # directions beyond those asked for, in the iterated subspace
GAIN, PASSES = 2e-5, 8  # iteration ends when the variance held grows by less than this share, or after these passes
TILE_NUMBERS = 2**22  # numbers of a tile of float data
TIE = 1e-4  # share by which coordinates may differ and count as equally large
COLUMNS = 512  # columns of a covariance that are computed by one thread


@dataclass(frozen=True)
class RowSample:
    """Data of one side that mean and directions are found from.

    Attributes:
        rows: the data.
        ids: which of them take part.
        flips: whether the mirror image of each takes part too.
    """

    rows: Rows
    ids: Int64[np.ndarray, " k"]
    flips: bool = False

    def spaced(self) -> "RowSample":
        """Return at most MOST_ROWS of the data, evenly spaced."""
        chosen = np.linspace(0, len(self.ids) - 1, min(len(self.ids), MOST_ROWS)).astype(np.int64)
        return RowSample(self.rows, self.ids[chosen], self.flips)

    def __len__(self) -> int:
        return len(self.ids) * (2 if self.flips else 1)


def fit_features(sides: Sequence[RowSample], pca: int | None, when_read: Callable[[], None] = lambda: None) -> Features:
    """Centre the data and find their `pca` leading principal directions, or as many as there are coordinates.

    Each direction has the sign that makes its largest coordinate positive, the first of those that are as large: with
    mirror images there are always two.

    Args:
        sides: data of one side or of both.
        pca: number of directions; None keeps all coordinates as they are.
        when_read: called when the data have been read, before what takes as long for any number of them.
    """
    sides = [side.spaced() for side in sides]
    mean, rows = _mean(sides), sides[0].rows
    if pca is None:
        when_read()
        return Features(mean.astype(np.float32), None)
    from scipy.linalg import eigh  # its BLAS has to be there before it is limited to a thread

    with single_threaded():
        if rows.dim <= WIDE:
            covariance = _covariance(sides, mean)
            when_read()
            variances, basis, total = _leading(covariance, min(pca, rows.dim), eigh)
        else:
            variances, basis, total = _of_subspace(sides, mean.astype(np.float32), min(pca, rows.dim))
            when_read()
    sizes = np.abs(basis)
    largest = (sizes >= (1 - TIE) * sizes.max(0)).argmax(0)
    basis = basis * np.sign(basis[largest, np.arange(basis.shape[1])])
    return Features(mean.astype(np.float32), np.ascontiguousarray(basis, np.float32), variances, total)


def _mean(sides: Sequence[RowSample]) -> Float64[np.ndarray, " D"]:
    """Compute the mean in model space, from integer sums of uint8 data and float64 sums of floats in a fixed order."""
    total, count = np.zeros(sides[0].rows.dim), 0
    for side in sides:
        exact = side.rows.dtype == "uint8"
        sums: np.ndarray = np.zeros(side.rows.shape, np.int64 if exact else np.float64)
        for ids in side.rows.chunks(side.ids):
            sums += side.rows.take(ids).sum(0, dtype=sums.dtype)
        if side.flips:
            sums = sums + sums[..., ::-1]
        flat = sums.reshape(-1).astype(np.float64)
        total += flat / 127.5 - len(side) if exact else flat
        count += len(side)
    return total / count


def _covariance(sides: Sequence[RowSample], mean: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, "D D"]:
    """Compute the covariance matrix of the data."""
    width = len(mean)
    whole = np.zeros((width, width))
    for side in sides:
        part = _integer_gram(side, mean) if side.rows.dtype == "uint8" else _float_gram(side, mean)
        if side.flips:
            order = np.arange(width).reshape(side.rows.shape)[..., ::-1].reshape(-1)
            part = part + part[np.ix_(order, order)]
        whole += part
    whole /= sum(map(len, sides))
    return whole


def _leading(
    covariance: Float64[np.ndarray, "D D"], k: int, eigh: Callable[..., Any]
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, "D k"], float]:
    """Find directions from a covariance matrix, which is overwritten: variances, directions and the variance in all."""
    total, width = float(np.trace(covariance)), len(covariance)
    variances, basis = eigh(covariance, subset_by_index=[width - k, width - 1], overwrite_a=True, check_finite=False)
    return np.maximum(variances[::-1], 0.0), basis[:, ::-1], total


def _integer_gram(side: RowSample, mean: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, "D D"]:
    """Sum the centred products of uint8 data, from exact integers."""
    width, count = len(mean), len(side.ids)
    gram, sums = np.zeros((width, width)), np.zeros(width)
    for start in range(0, count, EXACT_ROWS):
        x = side.rows.take(side.ids[start : start + EXACT_ROWS]).reshape(-1, width).astype(np.float32) - np.float32(128)
        _add_gram(gram, x)
        sums += x.sum(0, dtype=np.float64)
    # In units of 1 / 127.5, x - 128 has the mean 127.5 (mean + 1) - 128.
    centre = 127.5 * (mean + 1) - 128
    _mirror_upper(gram)
    cross = np.outer(sums, centre)
    gram -= cross + cross.T - count * np.outer(centre, centre)
    gram /= 127.5**2
    return gram


def _float_gram(side: RowSample, mean: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, "D D"]:
    """Sum the centred products of float data, in float64."""
    gram = np.zeros((len(mean), len(mean)))
    for x in _tiles(side):
        _add_gram(gram, x.astype(np.float64) - mean)
    _mirror_upper(gram)
    return gram


def _add_gram(gram: Float64[np.ndarray, "D D"], x: Shaped[np.ndarray, "r D"]) -> None:
    """Add the upper triangle of x^T x; threads share its columns, the widest first."""

    def add(start: int) -> None:
        gram[: start + COLUMNS, start : start + COLUMNS] += x[:, : start + COLUMNS].T @ x[:, start : start + COLUMNS]

    for _ in map_in_threads(add, range(0, len(gram), COLUMNS)[::-1]):
        pass


def _mirror_upper(gram: Float64[np.ndarray, "D D"]) -> None:
    """Fill in the lower triangle."""
    for start in range(0, len(gram), COLUMNS):
        gram[start : start + COLUMNS, :start] = gram[:start, start : start + COLUMNS].T


def _of_subspace(
    sides: Sequence[RowSample], mean: Float32[np.ndarray, " D"], k: int
) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, "D k"], float]:
    """Find directions by subspace iteration: variances, directions and the variance in all."""
    size = min(k + SPARE, len(mean))
    subspace = np.linalg.qr(noise.gaussian(0, 0, len(mean), size, noise.Stream.DIRECTIONS).astype(np.float64))[0]
    held = 0.0
    for _ in range(PASSES):
        product, inside, total = _multiply(sides, mean, subspace)
        variances, rotation = np.linalg.eigh(inside)
        before, held = held, float(variances[-k:].sum())
        if held - before <= GAIN * held:
            break
        following = np.linalg.qr(product)[0]
        subspace, last = following, subspace
    else:
        subspace = last
    return np.maximum(variances[::-1][:k], 0.0), subspace @ rotation[:, ::-1][:, :k], total


def _multiply(
    sides: Sequence[RowSample], mean: Float32[np.ndarray, " D"], subspace: Float64[np.ndarray, "D l"]
) -> tuple[Float64[np.ndarray, "D l"], Float64[np.ndarray, "l l"], float]:
    """Multiply a subspace Q by the covariance C; also return Q^T C Q and the trace of C."""
    size, product = subspace.shape[1], np.zeros(subspace.shape)
    inside, total = np.zeros((size, size)), 0.0
    for side in sides:
        both = [subspace, _mirrored(subspace, side.rows.shape)] if side.flips else [subspace]
        wide = np.ascontiguousarray(np.concatenate(both, 1), np.float32)
        found = np.zeros(wide.shape)
        for x in _tiles(side):
            x = in_model_space(x) - mean
            inner = _tiled_product(x, wide, 4)
            found += _tiled_product(x.T, inner, 8)
            exact = inner.astype(np.float64)
            for start in range(0, wide.shape[1], size):
                inside += exact[:, start : start + size].T @ exact[:, start : start + size]
            total += float(np.einsum("ij,ij->", x, x, dtype=np.float64)) * (2 if side.flips else 1)
        product += found[:, :size]
        if side.flips:
            product += _mirrored(found[:, size:], side.rows.shape)
    count = sum(map(len, sides))
    return product / count, inside / count, total / count


def _mirrored(vectors: Float64[np.ndarray, "D l"], shape: tuple[int, ...]) -> Float64[np.ndarray, "D l"]:
    """Mirror vectors that have the shape of a datum."""
    return vectors.reshape(*shape, -1)[..., ::-1, :].reshape(vectors.shape)


def _tiles(side: RowSample) -> Iterator[Shaped[np.ndarray, "r D"]]:
    """Yield the data of a sample, as they are stored, in tiles whose size depends on their width alone."""
    step = max(16, TILE_NUMBERS // side.rows.dim)
    for start in range(0, len(side.ids), step):
        yield side.rows.take(side.ids[start : start + step]).reshape(-1, side.rows.dim)


def _tiled_product(a: Float32[np.ndarray, "r q"], b: Float32[np.ndarray, "q l"], count: int) -> np.ndarray:
    """Compute a b; threads share the rows of a, which are cut into `count` parts whatever the number of threads."""
    step = -(-len(a) // count)
    return np.concatenate(list(map_in_threads(lambda start: a[start : start + step] @ b, range(0, len(a), step))))
