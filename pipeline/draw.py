"""From a block's features to its partners: numpy in, numpy out, the coupling itself on the device in between."""

import dataclasses
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from pipeline import ot
from pipeline.config import CouplingConfig


def draw_partners(
    options: CouplingConfig,
    x0: Float32[np.ndarray, "n k"],
    x1: Float32[np.ndarray, "m k"],
    uniforms: Float64[np.ndarray, " n"],
    order: Int64[np.ndarray, " m"] | None,
    device: str,
) -> tuple[dict[str, Any], Int64[np.ndarray, " n"], Float64[np.ndarray, " m"] | None]:
    """Couple a block and draw one partner per source row.

    Args:
        options: method, epsilon and tolerance.
        x0: source features.
        x1: target features.
        uniforms: one a source row, in [0, 1).
        order: a random order of the target rows for a balanced draw; None for a categorical one.
        device: where to compute.

    Returns: the block's report, the target row of every source row, and the target potential where the method has one.
    """
    coupling = couple(options, torch.from_numpy(x0).to(device), torch.from_numpy(x1).to(device))
    u = torch.from_numpy(uniforms).to(device)
    balance = None if order is None else torch.from_numpy(order).to(device)
    partners = coupling.draw(u) if balance is None else coupling.draw_balanced(u, balance)
    g = None if coupling.g is None else coupling.g.double().cpu().numpy()
    return dataclasses.asdict(coupling.report), partners.cpu().numpy(), g


def couple(options: CouplingConfig, x0: Float[Tensor, "n k"], x1: Float[Tensor, "m k"]) -> ot.Coupling:
    """The coupling that the config asks for; its epsilon is relative, absolute, or found by its sharpness."""
    if options.method == "exact":
        return ot.solve_exact(ot.Problem(x0, x1, 0.0))
    if options.method == "independent":
        return ot.independent(ot.Problem(x0, x1, 0.0))
    tol, passes, backend = options.tol, options.max_passes, options.backend
    if options.entropy is not None:
        problem = ot.Problem(x0, x1, 1.0)
        return ot.solve_for_entropy(problem, options.entropy, tol=tol, max_passes=passes, backend=backend)
    eps = options.eps if options.rel_eps is None else options.rel_eps * ot.cost_std(x0, x1)
    assert eps is not None, "the config fills in one of the three"
    return ot.solve_sinkhorn(ot.Problem(x0, x1, eps), tol=tol, max_passes=passes, backend=backend)
