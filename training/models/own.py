"""Networks of the user's own, named in the configuration as module:class."""

from typing import Any

import torch
from torch import nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.config import OwnConfig


def own_class(config: OwnConfig) -> type[nn.Module]:
    """Import the class that the configuration names.

    Raises:
        InputError: no such module, or nothing in it that makes a torch module.
    """
    found = config.imported()
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(
            f"model.network={config.network!r}: is no class of torch modules; name one that extends torch.nn.Module"
        )
    return found


def build_own(config: OwnConfig, given: dict[str, Any]) -> nn.Module:
    """Make the user's network; `given` are its keyword arguments.

    Raises:
        InputError: see `own_class`; or the class does not take these arguments.
    """
    made = own_class(config)
    try:
        return made(**given)
    except Exception as error:  # a user's class may raise anything
        names = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise InputError(
            f"model.network={config.network!r}: failed with ({names}): {type(error).__name__}: {error}; it is made "
            "with shape, num_classes and the keys of model.args"
        ) from error


def try_out(
    network: nn.Module, config: OwnConfig, shape: tuple[int, ...], num_classes: int, spans: bool = False
) -> None:
    """Call the user's network on two rows, and refuse what is no velocity of that shape.

    Args:
        network: the network.
        config: the model's part of the configuration.
        shape: the shape of one datum.
        num_classes: the number of labels that it may see.
        spans: whether it also takes `until`.

    Raises:
        InputError: the call fails, or returns something else than numbers of the shape of x.
    """
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    label = torch.arange(2) % num_classes if config.conditional else None
    more = (torch.tensor([0.75, 1.0]),) if spans else ()
    key = f"model.network={config.network!r}"
    try:
        with torch.no_grad():
            velocity = network(torch.tensor([0.25, 0.75]), x, label, *more)
    except Exception as error:  # as above
        signature = "(t, x, label, until)" if spans else "(t, x, label)"
        raise InputError(
            f"{key}: calling it as model{signature} failed on two rows: {type(error).__name__}: {error}; t is [b], x "
            f"[b, {', '.join(map(str, shape))}], label [b] or None"
        ) from error
    if not (isinstance(velocity, torch.Tensor) and velocity.shape == x.shape and velocity.is_floating_point()):
        what = list(velocity.shape) if isinstance(velocity, torch.Tensor) else type(velocity).__name__
        raise InputError(f"{key}: returns {what} for x of shape {list(x.shape)}; return a velocity in the shape of x")
