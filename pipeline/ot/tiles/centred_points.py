"""Points less their weighted mean, in float64, without a copy of them in float64.

The mean is taken off in float64, since an offset of the data would cost float32 digits of their inner products. What is
made of centred points is made a slab of rows at a time, so that many are held once, in the type they came in. Few,
which are one slab, are kept in float64 beside.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

# Numbers of a slab: on CPUs nearly all sets are one, since time is dearer there than memory.
CPU_SLAB, GPU_SLAB = 2**28, 2**23


class CentredPoints:
    """Points [k, d] less a centre.

    Args:
        points: the points, float32 or float64.
        centre: what is taken off, float64.
        order: which of the points these are, in order; None is all of them.

    Attributes:
        kept: what a backend made of them, to be made once, after what else it depends on.
    """

    def __init__(
        self, points: Float[Tensor, "_ d"], centre: Float64[Tensor, " d"], order: Int[Tensor, " k"] | None = None
    ) -> None:
        self.points, self.centre, self.order = points, centre, order
        self.d, self.device = points.shape[1], points.device
        self.kept: tuple[object, Any] | None = None
        self._whole: Float64[Tensor, "k d"] | None = None

    def __len__(self) -> int:
        return len(self.points if self.order is None else self.order)

    def slabs(self) -> Iterator[tuple[slice, Float64[Tensor, "r d"]]]:
        """Yield runs of rows, and the centred points there in float64, to be read only."""
        runs = slabs_of(self)
        if len(runs) == 1:
            self._whole = self[runs[0]] if self._whole is None else self._whole
            yield runs[0], self._whole
            return
        for rows in runs:
            yield rows, self[rows]

    def __getitem__(self, rows: slice | Int[Tensor, " r"]) -> Float64[Tensor, "r d"]:
        """Return some of the centred points in float64."""
        return self._given(rows) - self.centre

    def restrict(self, rows: Int[Tensor, " r"]) -> "CentredPoints":
        """Return some of the points, less the same centre; nothing is copied."""
        return CentredPoints(self.points, self.centre, rows if self.order is None else self.order[rows])

    def each(self, work: Callable[[Float64[Tensor, "r d"]], Float64[Tensor, "r *q"]]) -> Float64[Tensor, "k *q"]:
        """Apply `work` to the centred points, row by row."""
        return torch.cat([work(own) for _, own in self.slabs()])

    def each_as_given(
        self, work: Callable[[Float64[Tensor, "r d"]], Float64[Tensor, "r *q"]]
    ) -> Float64[Tensor, "k *q"]:
        """Apply `work` to the points with their centre, row by row, in float64."""
        return torch.cat([work(self._given(rows)) for rows in slabs_of(self)])

    def mean(self, weights: Float64[Tensor, " k"]) -> Float64[Tensor, " d"]:
        """Sum the centred points with weights."""
        return self._total(lambda own, weight: own.T @ weight, weights)

    def gram(self, weights: Float64[Tensor, " k"]) -> Float64[Tensor, "d d"]:
        """Sum the outer products of the centred points with weights."""
        return self._total(lambda own, weight: (own * weight[:, None]).T @ own, weights)

    def _total(self, work: Callable[[Tensor, Tensor], Float64[Tensor, "*q"]], weights: Tensor) -> Float64[Tensor, "*q"]:
        """Add what `work` makes of each slab and its weights, in the slabs' order."""
        return reduce(torch.add, (work(own, weights[rows]) for rows, own in self.slabs()))

    def _given(self, rows: slice | Int[Tensor, " r"]) -> Float64[Tensor, "r d"]:
        return self.points[rows if self.order is None else self.order[rows]].double()


def slabs_of(points: CentredPoints) -> list[slice]:
    """Cut the rows of points into runs of about as many numbers as a slab has."""
    step = max(1, (CPU_SLAB if points.device.type == "cpu" else GPU_SLAB) // points.d)
    return [slice(low, min(len(points), low + step)) for low in range(0, max(1, len(points)), step)]


def centred(
    points: Float[Tensor, "_ d"], weights: Float[Tensor, " k"], order: Int[Tensor, " k"] | None = None
) -> CentredPoints:
    """Take the weighted mean off points, or off some of them in an order.

    Args:
        points: the points [k, d].
        weights: their weights, float64; of those in `order` where there is one.
        order: which of the points, and in which order.
    """
    return CentredPoints(points, CentredPoints(points, _origin(points), order).mean(weights), order)


def as_centred(points: Float[Tensor, "k d"] | CentredPoints) -> CentredPoints:
    """Wrap points that are centred already."""
    return points if isinstance(points, CentredPoints) else CentredPoints(points, _origin(points))


def _origin(points: Float[Tensor, "_ d"]) -> Float64[Tensor, " d"]:
    return torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
