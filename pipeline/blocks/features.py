"""Features, which the cost compares: flattened and centred data, projected on principal directions if asked for.

With the dot-product cost, noise projected on the same orthonormal directions stays standard Gaussian (arXiv
2506.05526), and centring the data changes no coupling, since it shifts the cost of every source row by a constant.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.blocks import noise

PCA_ROWS = 65_536  # principal directions come from at most this many evenly spaced data
_CHUNK = 4_096  # rows projected at a time; part of the definition, as matmul may round differently for other shapes


def gather(x: Float32[np.ndarray, "N ..."], ids: Int64[np.ndarray, " k"]) -> Float32[np.ndarray, "k ..."]:
    """Collect the data of the given ids: id + N is the datum mirrored left-right (along the last axis)."""
    out = x[ids % len(x)]
    mirrored = ids >= len(x)
    out[mirrored] = out[mirrored][..., ::-1]
    return out


@dataclass(frozen=True)
class Features:
    """An affine map from data space to the space of the cost: (x - mean) @ basis."""

    mean: Float32[np.ndarray, " D"]
    basis: Float32[np.ndarray, "D k"] | None  # None: all D coordinates

    @property
    def dim(self) -> int:
        """Number of coordinates of the features."""
        return len(self.mean) if self.basis is None else self.basis.shape[1]

    def of_data(self, x: Float32[np.ndarray, "N ..."], *, flips: bool) -> Float32[np.ndarray, "ids k"]:
        """Compute the features of every data id: of the N data, and with `flips` of their N mirror images."""
        ids = np.arange(len(x) * (2 if flips else 1))
        out = np.empty((len(ids), self.dim), np.float32)
        for start in range(0, len(ids), _CHUNK):
            rows = gather(x, ids[start : start + _CHUNK]).reshape(-1, len(self.mean)) - self.mean
            out[start : start + _CHUNK] = rows if self.basis is None else rows @ self.basis
        return out

    def of_noise(self, seed: int, first: int, rows: int) -> Float32[np.ndarray, "rows k"]:
        """Compute the features of Gaussian source rows, a chunk at a time: rows x D numbers are never in memory."""
        out = np.empty((rows, self.dim), np.float32)
        for start in range(0, rows, _CHUNK):
            x0 = noise.gaussian(seed, first + start, min(_CHUNK, rows - start), len(self.mean))
            out[start : start + _CHUNK] = x0 if self.basis is None else x0 @ self.basis
        return out

    def exactly(self, x0: Float32[np.ndarray, "rows D"]) -> Float64[np.ndarray, "rows k"]:
        """Compute the features of Gaussian source rows in float64, where it hardly matters which rows go together."""
        exact = x0.astype(np.float64)
        return exact if self.basis is None else exact @ self.basis.astype(np.float64)


def evenly_spaced(x: Float32[np.ndarray, "N ..."], ids: Int64[np.ndarray, " k"]) -> Float32[np.ndarray, "r ..."]:
    """Collect the data of at most PCA_ROWS evenly spaced ids."""
    return gather(x, ids[np.linspace(0, len(ids) - 1, min(len(ids), PCA_ROWS)).astype(np.int64)])


def fit_features(x: Float32[np.ndarray, "N ..."], pca: int | None, *, flips: bool) -> Features:
    """Centre the data and find their `pca` leading principal directions.

    Args:
        x: the data.
        pca: number of directions, at most the dimension; None keeps all coordinates as they are.
        flips: whether mirror images belong to the data set.
    """
    rows = x[np.linspace(0, len(x) - 1, min(len(x), PCA_ROWS)).astype(np.int64)]
    if flips:
        rows = np.concatenate([rows, rows[..., ::-1]])
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    mean = flat.mean(0)
    if pca is None:
        return Features(mean.astype(np.float32), None)
    flat -= mean
    return Features(mean.astype(np.float32), np.ascontiguousarray(principal_directions(flat, pca), np.float32))


def principal_directions(centred: Float64[np.ndarray, "n D"], k: int) -> Float64[np.ndarray, "D directions"]:
    """Compute the k orthonormal directions of largest variance, or as many as there are coordinates.

    Args:
        centred: data with mean 0.
        k: number of directions; each has the sign that makes its largest coordinate positive.
    """
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    basis = vectors[:, ::-1][:, :k]
    largest = np.abs(basis).argmax(0)
    return basis * np.sign(basis[largest, np.arange(basis.shape[1])])
