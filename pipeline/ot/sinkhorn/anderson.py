"""Anderson acceleration of a fixed-point map (Anderson 1965; type II, least squares on the residuals)."""

import torch
from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team, of_first

RIDGE = 1e-10  # relative; keeps the small system solvable where residuals are nearly parallel


class Anderson:
    """Mixes the last `memory` pairs of points and images into the next point.

    Args:
        memory: number of earlier pairs that are kept.
        team: processes that take the same steps, with the weights of the first.
    """

    def __init__(self, memory: int, team: Team = SINGLE) -> None:
        self.memory, self.team = memory, team
        self.images: list[Tensor] = []
        self.residuals: list[Tensor] = []

    def mix(self, point: Float[Tensor, " m"], image: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Compute the next point, given one more `point` and its `image` under the map."""
        self.images = [*self.images[-self.memory :], image]
        self.residuals = [*self.residuals[-self.memory :], image - point]
        if len(self.images) == 1:
            return image
        steps = torch.stack(self.residuals).diff(dim=0)
        gram = steps @ steps.T
        gram.diagonal().add_(RIDGE * gram.trace() + torch.finfo(gram.dtype).tiny)
        weights = of_first(self.team, torch.linalg.solve_ex(gram, steps @ self.residuals[-1]).result)
        return image - weights @ torch.stack(self.images).diff(dim=0)
