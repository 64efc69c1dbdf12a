"""`flow_matching_loss`: the regression loss of flow matching, for your own training loop."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from pydantic import ValidationError
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.config import PathConfig, TimesConfig
from flowpairs.training.objectives.objective import Objective, squared
from flowpairs.training.objectives.probability_paths import KINDS, Path, build_path
from flowpairs.training.objectives.randomness import times
from flowpairs.training.pairs.batch import Batch, BatchRows


def flow_matching_loss(
    model: Callable[..., Tensor],
    batch: Any,
    path: str = "cfm",
    *,
    sigma: float = 0.0,
    label: Int64[Tensor, " b"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Compute the mean of |v(t, x_t) - d x_t / dt|^2 per coordinate over a batch, with t uniform in [0, 1].

    x_t lies on a path from x0 at t = 0 to x1 at t = 1, with standard noise z (arXiv 2302.00482, table 1):

        cfm    x_t = (1 - t) x0 + t x1 + sigma z
        vp     x_t = cos(pi t / 2) x0 + sin(pi t / 2) x1 + sigma z
        sb     x_t = (1 - t) x0 + t x1 + sigma sqrt(t (1 - t)) z, a Brownian bridge; t stays 0.001 away from 0 and 1
        fm     x_t = t x1 + (1 - (1 - sigma) t) z, which starts from z and does not use x0

    Args:
        model: the velocity v, called as `model(t, x)`, or as `model(t, x, label)` if a label is given, with t [b] and
            x [b, *shape]; it returns [b, *shape].
        batch: the pairs, by key or attribute: x0 and x1 [b, *shape]; optionally weight [b], which multiplies the
            errors of the pairs, and span [b, 2], the part of [0, 1] during which x0 moves to x1.
        path: the kind of path: cfm, vp, sb or fm.
        sigma: the spread of the path, in units of x; for fm at t = 1, for sb the diffusion.
        label: the labels of the pairs [b], for a conditional model.
        generator: the source of the times and the noise; None: torch's global generator.

    Returns:
        The loss, a scalar that gradients can be taken of, in units of x squared.

    Raises:
        InputError: a ValueError: the path, sigma or batch is invalid, or the model returns another shape.
    """
    x0, x1, weight, span = (_field(batch, name) for name in ("x0", "x1", "weight", "span"))
    if x0 is None or x1 is None or x0.shape != x1.shape or not len(x1):
        shapes = [None if x is None else list(x.shape) for x in (x0, x1)]
        raise InputError(f"batch: x0 and x1 have the shapes {shapes[0]} and {shapes[1]}; give pairs, both [b, *shape]")
    pairs = Batch(x0, x1, BatchRows(0, len(x1), len(x1)), weight=weight, span=span)
    objective = Objective(0, _path(path, sigma))
    where = x1.device if generator is None else generator.device
    u = torch.rand(len(x1), generator=generator, device=where, dtype=x1.dtype).to(x1.device)
    t = times(TimesConfig(), u, objective.path.margin)
    z = None
    if objective.path.noisy:
        z = torch.randn(x1.shape, generator=generator, device=where, dtype=x1.dtype).to(x1.device)
    sample = objective.on_path(pairs, t, None, z, label)
    answer = model(sample.t, sample.x) if label is None else model(sample.t, sample.x, label)
    if answer.shape != x1.shape:
        raise InputError(f"model: answers {list(answer.shape)} where x is {list(x1.shape)}; answer in the shape of x")
    errors = squared(answer - sample.velocity)
    return (errors * objective.weights(t, errors.detach(), weight)).mean()


def _field(batch: Any, name: str) -> Tensor | None:
    """Get a field of a batch, by key or attribute, as a tensor; None if the batch does not have it."""
    value = batch.get(name) if isinstance(batch, Mapping) else getattr(batch, name, None)
    return None if value is None else torch.as_tensor(value)


def _path(name: str, sigma: float) -> Path:
    if name not in KINDS:
        raise InputError(f"path={name!r}: no such path; give {', '.join(KINDS)}")
    try:
        return build_path(PathConfig.model_validate({"kind": name, "sigma": sigma}))
    except ValidationError as error:
        raise InputError(f"sigma={sigma!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
