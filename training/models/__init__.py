"""Velocity models, all called as `model(t, x, label, until)`.

t [b] in [0, 1], x [b, *shape], label [b] int64 or None -> velocity [b, *shape]. Models built with `spans` also take
`until` [b] in [t, 1] and return the average velocity from t to `until`.
"""

import math
from typing import Any

import torch
from torch import nn

from flowpairs.pipeline.base.environment import require
from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.config import MLPConfig, ModelConfig, OwnConfig, UNetConfig


def check_model(config: ModelConfig, shape: tuple[int, ...], num_classes: int) -> None:
    """Refuse a model that does not fit the data.

    Args:
        config: the model's part of the configuration.
        shape: the shape of one datum; [C, H, W] for images.
        num_classes: the number of classes of the data; 0 if the pairs have no labels.

    Raises:
        InputError: an image model is used for data that are not images or whose size it does not divide, or labels are
            requested but absent.
    """
    if config.conditional and num_classes == 0:
        raise InputError("model.conditional=True: the pairs carry no labels; couple with data.label or set it to False")
    if isinstance(config, MLPConfig | OwnConfig):
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
    """Return the keyword arguments of the network's class; the arguments are those of `build_model`."""
    size = {"dim": math.prod(shape)} if isinstance(config, MLPConfig) else {"shape": shape}
    classes = num_classes + null if config.conditional else 0
    if isinstance(config, OwnConfig):
        return size | config.args | {"num_classes": classes} | ({"spans": True} if spans else {})
    return size | config.model_dump(exclude={"kind", "conditional"}) | {"num_classes": classes, "spans": spans}


def build_model(
    config: ModelConfig, shape: tuple[int, ...], num_classes: int, seed: int, spans: bool = False, null: bool = False
) -> nn.Module:
    """Build an untrained model, initialised from `seed` alone.

    Args:
        config: the model's part of the configuration.
        shape: the shape of one datum; [C, H, W] for images.
        num_classes: the number of classes of the data; 0 if the pairs have no labels.
        seed: the seed of the weights; the state of the global generator is preserved.
        spans: whether the model takes `until` and returns average velocities.
        null: whether a conditional model has an extra label, `num_classes`, that stands for no label.

    Raises:
        InputError: the model does not fit the data, see `check_model`.
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
        if isinstance(config, OwnConfig):
            from flowpairs.training.models.own import build_own

            return build_own(config, given)
        from flowpairs.training.models.dit import DiT

        return DiT(**given)
