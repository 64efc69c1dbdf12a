"""An order of points in which neighbours in the list are neighbours in space."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

DEPTH = 7  # halvings: twice as many cells as there are runs of tiles
LEAST = 32  # points of a cell
SWEEPS = 3  # power iterations towards a cell's longest direction
FEATURES = 64  # features that the order looks at: those of the largest variance


def nearby_order(points: Float[Tensor, "k d"]) -> Int64[Tensor, " k"]:
    """Order points by halving them at the median of their longest direction, again and again."""
    if points.shape[1] > FEATURES:
        points = points[:, points.var(0, correction=0).topk(FEATURES).indices.sort().values]
    points = points.double()
    cells = [torch.arange(len(points), device=points.device)]
    for _ in range(DEPTH):
        if len(cells[0]) < 2 * LEAST:
            break
        cells = [half for cell in cells for half in _halves(points, cell)]
    return torch.cat(cells)


def _halves(points: Float[Tensor, "k d"], cell: Int64[Tensor, " c"]) -> tuple[Tensor, ...]:
    """Halve a cell across its longest direction."""
    own = points[cell]
    own = own - own.mean(0)
    direction = own.square().sum(0).sqrt()
    for _ in range(SWEEPS):
        direction = own.T @ (own @ direction)
        direction = direction / direction.norm().clamp(min=1e-300)
    order = (own @ direction).argsort(stable=True)
    return cell[order].tensor_split(2)
