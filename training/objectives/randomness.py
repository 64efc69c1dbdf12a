"""The randomness of a training step, a pure function of (seed, step) over the global batch.

Each worker takes its own rows, so results depend neither on the number of workers nor on where a run was interrupted.
"""

from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.device_noise import device_gaussian
from flowpairs.training.config import TimesConfig
from flowpairs.training.pairs.batch import BatchRows


class Purpose(IntEnum):
    """The purpose of a draw; draws of one step for different purposes are independent."""

    TIMES = 0
    LABELS = 1  # which labels are dropped
    UNTIL = 2  # second times, for intervals
    SPANS = 3  # which samples have an interval of positive length


def step_uniforms(seed: int, step: int, rows: BatchRows, purpose: Purpose) -> Float32[Tensor, " b"]:
    """Draw the given rows of the global batch's uniforms on [0, 1)."""
    state = np.random.SeedSequence([seed, step, purpose]).generate_state(1, np.uint64)[0]
    drawn = torch.rand(rows.total, generator=torch.Generator().manual_seed(int(state)))
    return drawn[rows.start : rows.stop]


def normals(seed: int, step: int, rows: BatchRows, shape: tuple[int, ...]) -> Float32[Tensor, "b *shape"]:
    """Draw the given rows of the global batch's standard noise, by counter: a worker makes its own rows only."""
    first = step * rows.total + rows.start
    drawn = noise.gaussian(seed, first, len(rows), int(np.prod(shape)), noise.Stream.PATH)
    return torch.from_numpy(drawn).view(len(rows), *shape)


def device_normals(seed: int, rows: Int64[Tensor, " b"], shape: tuple[int, ...]) -> Float32[Tensor, "b *shape"]:
    """Make the noise of `normals` on the device of `rows`, to the same bits; row `step * total + r` is row r's."""
    return device_gaussian(seed, rows, int(np.prod(shape)), noise.Stream.PATH).view(len(rows), *shape)


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor to a device without waiting for it: through pinned memory where that is a GPU."""
    if device.type == "cuda" and not numbers.is_pinned():
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def times(config: TimesConfig, u: Float[Tensor, " b"], margin: float = 0.0) -> Float[Tensor, " b"]:
    """Map uniforms to times of the configured distribution, by its quantile function.

    Args:
        config: the distribution.
        u: uniforms on [0, 1).
        margin: the times are scaled linearly into [margin, 1 - margin].
    """
    if config.kind == "logit-normal":
        u = torch.sigmoid(config.mean + config.std * torch.special.ndtri(u))
    return margin + (1 - 2 * margin) * u if margin else u
