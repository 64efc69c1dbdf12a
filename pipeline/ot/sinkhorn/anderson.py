"""Anderson acceleration of a fixed-point map (Anderson 1965; type II, least squares on the residuals)."""

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-10  # relative; keeps the small system solvable where residuals are nearly parallel


class Anderson:
    """Mixes the last `memory` pairs of points and images into the next point."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
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
        weights = torch.linalg.solve(gram, steps @ self.residuals[-1])
        return image - weights @ torch.stack(self.images).diff(dim=0)
