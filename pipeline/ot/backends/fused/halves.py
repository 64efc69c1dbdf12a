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

    22 bits of the largest number are kept, and of each other as many as lie above 2^-38 of it. The halves have the
    number's digits, and the power its exponent: rounded to float32, it would change every product alike.
    """
    points = as_centred(points)
    digits, exponent = math.frexp(times)
    largest = max(own.abs().max().item() if own.numel() else 0.0 for _, own in points.slabs()) * digits
    power = 2.0 ** (TOP + 1 - math.frexp(largest)[1])
    width = -(-points.d // multiple) * multiple
    high, low = (torch.zeros(len(points), width, dtype=torch.float16, device=points.device) for _ in range(2))
    for rows, own in points.slabs():
        scaled = own * (power * digits)
        high[rows, : points.d] = scaled
        low[rows, : points.d] = scaled.sub_(high[rows, : points.d])
    return Halves(high, low, power / 2.0**exponent)


def split_once(points: CentredPoints, multiple: int, times: float = 1.0) -> Halves:
    """Return what `halved` makes of points, kept with them until it is asked for a number of other digits."""
    digits, exponent = math.frexp(times)
    if points.kept is None or points.kept[0] != (multiple, digits):
        points.kept = None  # not beside the new ones
        points.kept = (multiple, digits), halved(points, multiple, digits)
    high, low, power = points.kept[1]
    return Halves(high, low, power / 2.0**exponent)
