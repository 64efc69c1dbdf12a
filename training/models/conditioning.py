"""The conditioning of a velocity model: time and, where the model has them, the label and the interval's end."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

FREQUENCIES = 32


class Conditioning(nn.Module):
    """The sum of three vectors per sample: of sinusoids of t, of the class, and of the interval's length.

    Args:
        width: the length of the vector.
        num_classes: the number of labels; 0 for an unconditional model.
        spans: whether the model takes `until` and returns average velocities.
    """

    frequencies: Tensor

    def __init__(self, width: int, num_classes: int, spans: bool = False) -> None:
        super().__init__()
        # Wavelengths from 2 down to 0.2 of the unit interval: shorter ones let the velocity jitter in time. They are
        # ten times longer if its time derivative is trained on, which would otherwise converge several times slower.
        shortest = 0 if spans else 1
        frequencies = math.pi * torch.logspace(shortest - 1, shortest, FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.time = self._embedding(width)
        self.label = nn.Embedding(num_classes, width) if num_classes else None
        self.span = self._embedding(width) if spans else None

    def forward(
        self, t: Float[Tensor, " b"], label: Int64[Tensor, " b"] | None, until: Float[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b w"]:
        """Embed t in [0, 1], the label, and the length of the interval [t, until], which is 0 without `until`."""
        out = self.time(self._sinusoids(t))
        if self.span is not None:
            out = out + self.span(self._sinusoids(torch.zeros_like(t) if until is None else until - t))
        if self.label is not None:
            assert label is not None, "a conditional model needs labels"
            out = out + self.label(label)
        return out

    @staticmethod
    def _embedding(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def _sinusoids(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b f"]:
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)
