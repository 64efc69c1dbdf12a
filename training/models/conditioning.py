"""What a velocity model is conditioned on: time, and the label where there is one."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

FREQUENCIES = 32


class Conditioning(nn.Module):
    """One vector per sample from sinusoids of t, plus a learned vector per class.

    Args:
        width: of the vector.
        num_classes: 0 for an unconditional model.
    """

    frequencies: Tensor

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        # Wavelengths from 2 down to 0.2 of the unit interval: shorter ones let the velocity jitter in time.
        self.register_buffer("frequencies", math.pi * torch.logspace(0, 1, FREQUENCIES), persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(num_classes, width) if num_classes else None

    def forward(self, t: Float[Tensor, " b"], label: Int64[Tensor, " b"] | None) -> Float[Tensor, "b w"]:
        """Embed t in [0, 1] and the label."""
        angles = t[:, None] * self.frequencies
        out = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if self.label is not None:
            assert label is not None, "a conditional model needs labels"
            out = out + self.label(label)
        return out
