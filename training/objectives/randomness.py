"""The randomness of a training step, a pure function of (seed, step) over the global batch.

Each worker takes its own rows of it, so results depend neither on how many workers there are nor on where a run was
interrupted.
"""

from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from flowpairs.pipeline.blocks import noise
from flowpairs.training.config import TimesConfig
from flowpairs.training.pairs.loader import BatchPart


class Purpose(IntEnum):
    """Independent draws of one step."""

    TIMES = 0
    LABELS = 1  # which are dropped
    UNTIL = 2  # second times
    SPANS = 3  # which samples have one


def step_uniforms(seed: int, step: int, part: BatchPart, purpose: Purpose) -> Float32[Tensor, " b"]:
    """This worker's rows of the global batch's uniforms on [0, 1)."""
    state = np.random.SeedSequence([seed, step, purpose]).generate_state(1, np.uint64)[0]
    drawn = torch.rand(part.batch, generator=torch.Generator().manual_seed(int(state)))
    return drawn.chunk(part.world)[part.rank]


def normals(seed: int, step: int, part: BatchPart, shape: tuple[int, ...]) -> Float32[Tensor, "b *shape"]:
    """This worker's rows of the global batch's standard noise, made by counter: a worker makes no other's."""
    rows = part.batch // part.world
    first = step * part.batch + part.rank * rows
    drawn = noise.gaussian(seed, first, rows, int(np.prod(shape)), noise.Stream.PATH)
    return torch.from_numpy(drawn).view(rows, *shape)


def times(config: TimesConfig, u: Float32[Tensor, " b"], ends: float = 0.0) -> Float32[Tensor, " b"]:
    """Times of the configured distribution out of uniforms, by its quantile function.

    Args:
        config: which distribution.
        u: uniforms.
        ends: the times are squeezed into [ends, 1 - ends].
    """
    if config.kind == "logit-normal":
        u = torch.sigmoid(config.mean + config.std * torch.special.ndtri(u))
    return ends + (1 - 2 * ends) * u if ends else u
