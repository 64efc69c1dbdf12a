"""Features, which the cost compares: flattened and centred data, projected on principal directions if asked for.

With the dot-product cost, noise projected on the same orthonormal directions stays standard Gaussian (arXiv
2506.05526), and centring the data changes no coupling, since it shifts the cost of every source row by a constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.base.threads import map_in_threads
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.data.rows.rows import Rows

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK = 4_096  # most rows projected at a time; part of the definition, as matmul may round differently for other shapes
CHUNK_NUMBERS = 2**24  # and most numbers


@dataclass(frozen=True)
class Features:
    """An affine map from data space to the space of the cost: (x - mean) @ basis.

    Attributes:
        mean: mean of the data.
        basis: orthonormal directions; None: all D coordinates.
        variances: variance of the data along each direction.
        total: variance of the data in all.
    """

    mean: Float32[np.ndarray, " D"]
    basis: Float32[np.ndarray, "D k"] | None
    variances: Float64[np.ndarray, " k"] | None = field(default=None, compare=False)
    total: float = field(default=0.0, compare=False)

    @property
    def dim(self) -> int:
        """Number of coordinates of the features."""
        return len(self.mean) if self.basis is None else self.basis.shape[1]

    @property
    def captured(self) -> float | None:
        """The share of the variance that the directions hold; None where all coordinates are kept."""
        return None if self.variances is None or not self.total else float(self.variances.sum() / self.total)

    def of_rows(self, x: Float32[np.ndarray, "r D"]) -> Float32[np.ndarray, "r k"]:
        """Compute the features of data; products in float64, so that the result hardly depends on their order."""
        centred = x - self.mean
        if self.basis is None:
            return centred
        return (centred.astype(np.float64) @ self.basis.astype(np.float64)).astype(np.float32)

    def of_noise(
        self, seed: int, first: int, rows: int, sections: Sequence[slice] | None = None
    ) -> Float32[np.ndarray, "rows k"]:
        """Compute the features of Gaussian source rows, a chunk at a time: rows x D numbers are never in memory.

        A chunk's product has one thread, so its bits do not depend on the number of cores.

        Args:
            seed: the job's seed.
            first: global number of the first row.
            rows: number of rows.
            sections: which of the rows, each section by itself; the others are zero. None: all.
        """
        out = np.zeros((rows, self.dim), np.float32)

        def fill(chunk: slice) -> None:
            x0 = noise.gaussian(seed, first + chunk.start, chunk.stop - chunk.start, len(self.mean))
            out[chunk] = x0 if self.basis is None else x0 @ self.basis

        for _ in map_in_threads(fill, self._chunks(rows, sections)):
            pass
        return out

    def of_noise_on(
        self, device: "torch.device", seed: int, first: int, rows: int, sections: Sequence[slice] | None = None
    ) -> "Tensor":
        """Compute what `of_noise` does, [rows, k], on a device of torch.

        They are sums in float64 rounded to float32, so they agree with those of `of_noise`, which are sums in float32,
        to within the rounding of those; without directions they are the noise itself, bit for bit.
        """
        import torch

        from flowpairs.pipeline.blocks.device_noise import device_gaussian

        out = torch.zeros((rows, self.dim), dtype=torch.float32, device=device)
        basis = None if self.basis is None else torch.from_numpy(self.basis).to(device).double()
        for chunk in self._chunks(rows, sections):
            numbers = torch.arange(first + chunk.start, first + chunk.stop, device=device)
            x0 = device_gaussian(seed, numbers, len(self.mean))
            out[chunk] = x0 if basis is None else x0.double() @ basis
        return out

    def _chunks(self, rows: int, sections: Sequence[slice] | None) -> list[slice]:
        """Cut sections of rows, or all of them, into chunks."""
        step, parts = chunk_rows(len(self.mean)), [slice(0, rows)] if sections is None else sections
        return [
            slice(start, min(start + step, part.stop)) for part in parts for start in range(part.start, part.stop, step)
        ]

    def exactly(self, x0: Float32[np.ndarray, "rows D"]) -> Float64[np.ndarray, "rows k"]:
        """Compute the features of Gaussian source rows in float64, where it hardly matters which rows go together."""
        exact = x0.astype(np.float64)
        return exact if self.basis is None else exact @ self.basis.astype(np.float64)


@runtime_checkable
class DataFeatures(Protocol):
    """The features of every data id."""

    def __len__(self) -> int:
        """Return the number of ids."""

    def take(self, ids: Int64[np.ndarray, " r"]) -> Float32[np.ndarray, "r k"]:
        """Copy the features of some ids."""

    def whole(self) -> Float32[np.ndarray, "ids k"]:
        """Return the features of all ids; mapped from a file where they are one."""


class CentredRows:
    """Features that are all coordinates of the data, minus the mean: computed from the rows when they are asked for.

    Args:
        features: the map, without directions.
        rows: the data.
        flips: whether mirror images have ids.
    """

    def __init__(self, features: Features, rows: Rows, flips: bool) -> None:
        assert features.basis is None
        self.features, self.rows, self.count = features, rows, len(rows) * (2 if flips else 1)

    def __len__(self) -> int:
        return self.count

    def take(self, ids: Int64[np.ndarray, " r"]) -> Float32[np.ndarray, "r k"]:
        """See `DataFeatures.take`."""
        out = self.rows.read(ids).reshape(len(ids), -1)
        out -= self.features.mean
        return out

    def whole(self) -> Float32[np.ndarray, "ids k"]:
        """See `DataFeatures.whole`."""
        return self.take(np.arange(self.count))


def chunk_rows(dim: int) -> int:
    """Count the rows that are projected at a time, from the numbers of each."""
    return max(16, min(CHUNK, CHUNK_NUMBERS // dim))


def project(features: Features, rows: Rows, ids: Int64[np.ndarray, " r"]) -> Float32[np.ndarray, "r k"]:
    """Compute the features of some ids, a chunk at a time."""
    step = chunk_rows(rows.dim)
    chunks = [ids[start : start + step] for start in range(0, len(ids), step)]

    def of_chunk(part: Int64[np.ndarray, " c"]) -> Float32[np.ndarray, "c k"]:
        return features.of_rows(rows.read(part).reshape(len(part), -1))

    found = list(map_in_threads(of_chunk, chunks))
    return np.concatenate(found) if found else np.empty((0, features.dim), np.float32)


def stretches(rows: Rows, flips: bool) -> list[Int64[np.ndarray, " r"]]:
    """List the ids of each part of the features: those of each part of the rows, then of their mirror images."""
    edges, count = rows.edges, len(rows)
    return [
        np.arange(edges[part], edges[part + 1]) + side * count
        for side in range(2 if flips else 1)
        for part in range(len(rows.parts))
    ]


def compute_features(features: Features, rows: Rows, *, flips: bool) -> Rows:
    """Compute the features of every data id, in memory."""
    return Rows.of(np.concatenate([project(features, rows, ids) for ids in stretches(rows, flips)]))
