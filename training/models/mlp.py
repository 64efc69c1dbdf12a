"""A residual MLP for vectors and small flattened images."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from flowpairs.training.models.conditioning import Conditioning


class MLPBlock(nn.Module):
    """A residual block with conditioning c: h + W2 silu(W1 norm(h) + Wc c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.condition = nn.Linear(width, width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, h: Float[Tensor, "b w"], condition: Float[Tensor, "b w"]) -> Float[Tensor, "b w"]:
        """Apply the residual block."""
        return h + self.outer(nn.functional.silu(self.inner(self.norm(h)) + self.condition(condition)))


class MLP(nn.Module):
    """A velocity field on flattened data.

    Args:
        dim: the number of coordinates of one datum.
        width: the width of the hidden layers.
        depth: the number of residual blocks.
        num_classes: the number of labels; 0 for an unconditional model.
        spans: whether the model takes `until` and returns average velocities.
    """

    def __init__(self, dim: int, width: int, depth: int, num_classes: int, spans: bool = False) -> None:
        super().__init__()
        self.conditioning = Conditioning(width, num_classes, spans)
        self.enter = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(MLPBlock(width) for _ in range(depth))
        self.leave = nn.Linear(width, dim)

    def forward(
        self,
        t: Float[Tensor, " b"],
        x: Float[Tensor, "b *shape"],
        label: Int64[Tensor, " b"] | None = None,
        until: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b *shape"]:
        """Compute the velocity at (t, x)."""
        condition = nn.functional.silu(self.conditioning(t, label, until))
        h = self.enter(torch.flatten(x, 1))
        for block in self.blocks:
            h = block(h, condition)
        return self.leave(h).view_as(x)
