"""Points as two halves of float16 each, whose three products are as exact as one product in float32."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float16
from torch import Tensor

TOP = 13  # the largest number is scaled to below 2^14, so that halves neither overflow nor lose the low one


class Halves(NamedTuple):
    """Numbers (high + low) / power."""

    high: Float16[Tensor, "n k"]
    low: Float16[Tensor, "n k"]
    power: float  # of two, one for the whole array


def halved(points: Float[Tensor, "n d"], multiple: int) -> Halves:
    """Split points into halves, with zeros for features up to a multiple of `multiple`.

    22 bits of the largest number are kept, and of each other as many as lie above 2^-38 of it.
    """
    largest = points.abs().max().double() if points.numel() else torch.zeros((), dtype=torch.float64)
    power = 2.0 ** (TOP + 1 - int(torch.frexp(largest)[1].item()))
    room = max(multiple, -(-points.shape[1] // multiple) * multiple) - points.shape[1]
    scaled = torch.nn.functional.pad(points, (0, room)).double() * power
    high = scaled.half()
    return Halves(high.contiguous(), (scaled - high.double()).half().contiguous(), power)


def bytes_of_points(n: int, m: int, d: int) -> int:
    """Compute how many bytes the halves of n + m points of d features take."""
    return 4 * (n + m) * d
