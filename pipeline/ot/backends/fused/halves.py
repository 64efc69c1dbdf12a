"""Points as two halves of float16 each, whose three products are as exact as one product in float32."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float16
from torch import Tensor

from flowpairs.pipeline.ot.tiles.centred_points import CentredPoints, as_centred

TOP = 13  # the largest number is scaled to below 2^14, so that halves neither overflow nor lose the low one


class Halves(NamedTuple):
    """Numbers (high + low) / power."""

    high: Float16[Tensor, "n k"]
    low: Float16[Tensor, "n k"]
    power: float  # of two, one for the whole array


def halved(points: Float[Tensor, "n d"] | CentredPoints, multiple: int, times: float = 1.0) -> Halves:
    """Split points, times a number, into halves, with zeros for features up to a multiple of `multiple`.

    22 bits of the largest number are kept, and of each other as many as lie above 2^-38 of it.
    """
    points = as_centred(points)
    largest = max(own.abs().max().item() if own.numel() else 0.0 for _, own in points.slabs()) * times
    power = 2.0 ** (TOP + 1 - math.frexp(largest)[1])
    width = -(-points.d // multiple) * multiple
    high, low = (torch.zeros(len(points), width, dtype=torch.float16, device=points.device) for _ in range(2))
    for rows, own in points.slabs():
        scaled = own * (power * times)
        high[rows, : points.d] = scaled
        low[rows, : points.d] = scaled.sub_(high[rows, : points.d])
    return Halves(high, low, power)


def split_once(points: CentredPoints, multiple: int, times: float = 1.0) -> Halves:
    """Return what `halved` makes of points, kept with them until it is asked for other halves of them."""
    if points.kept is None or points.kept[0] != (multiple, times):
        points.kept = None  # not beside the new ones
        points.kept = (multiple, times), halved(points, multiple, times)
    return points.kept[1]
