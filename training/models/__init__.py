"""Velocity models, all called as `model(t, x, label, until)`.

t [b] in [0, 1], x [b, *shape], label [b] int64 or None -> velocity [b, *shape]. Models built with `spans` also take
`until` [b] in [t, 1], and answer with the average velocity from t to there.
"""

import math
from typing import Any

import torch
from torch import nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.extras import require
from flowpairs.training.config import MLPConfig, ModelConfig, UNetConfig


def check_model(config: ModelConfig, shape: tuple[int, ...], num_classes: int) -> None:
    """Refuse a model that does not fit the data.

    Args:
        config: the model's part of the configuration.
        shape: of one datum; [C, H, W] for images.
        num_classes: 0 where the pairs carry no labels.

    Raises:
        InputError: an image model on data that are no images or do not divide, labels asked for but absent.
    """
    if config.conditional and num_classes == 0:
        raise InputError("model.conditional=True: the pairs carry no labels; couple with data.label or set it to False")
    if isinstance(config, MLPConfig):
        return
    if len(shape) != 3:
        raise InputError(
            f"model.kind={config.kind!r}: needs images [C, H, W], but a datum here has shape {list(shape)}; use mlp"
        )
    if isinstance(config, UNetConfig):
        require("model.kind='unet'", "diffusers")
        factor, remedy = 2 ** (len(config.channels) - 1), "fewer entries in model.channels"
    else:
        factor, remedy = config.patch, "another model.patch"
        if config.width % config.heads:
            raise InputError(
                f"model.heads={config.heads}: does not divide model.width={config.width}; choose a divisor"
            )
    if any(size % factor for size in shape[1:]):
        raise InputError(
            f"model.kind={config.kind!r}: height and width must be multiples of {factor}, "
            f"but images here are {shape[1]}x{shape[2]}; use {remedy}"
        )


def arguments(
    config: ModelConfig, shape: tuple[int, ...], num_classes: int, spans: bool = False, null: bool = False
) -> dict[str, Any]:
    """What a network is built with, besides its seed: the keyword arguments of its class, see `build`."""
    size = {"dim": math.prod(shape)} if isinstance(config, MLPConfig) else {"shape": shape}
    classes = num_classes + null if config.conditional else 0
    return size | config.model_dump(exclude={"kind", "conditional"}) | {"num_classes": classes, "spans": spans}


def build_model(
    config: ModelConfig, shape: tuple[int, ...], num_classes: int, seed: int, spans: bool = False, null: bool = False
) -> nn.Module:
    """The untrained model, initialised from `seed` alone.

    Args:
        config: the model's part of the configuration.
        shape: of one datum; [C, H, W] for images.
        num_classes: 0 where the pairs carry no labels.
        seed: of the weights; the global generator is left as it was.
        spans: whether the model answers for intervals.
        null: whether a conditional model knows one label more, `num_classes`, for samples without theirs.
    """
    check_model(config, shape, num_classes)
    given = arguments(config, shape, num_classes, spans, null)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(config, MLPConfig):
            from flowpairs.training.models.mlp import MLP

            return MLP(**given)
        if isinstance(config, UNetConfig):
            from flowpairs.training.models.unet import UNet

            return UNet(**given)
        from flowpairs.training.models.dit import DiT

        return DiT(**given)
