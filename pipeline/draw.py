"""From a block's features to its partners: numpy in, numpy out, the coupling itself on the device in between."""

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from pipeline import ot
from pipeline.config import CouplingConfig
from pipeline.ot.descent import Save
from pipeline.ot.share import ALONE, Share, Team


def draw_partners(
    options: CouplingConfig,
    x0: Float32[np.ndarray, "n k"],
    x1: Float32[np.ndarray, "m k"],
    uniforms: Float64[np.ndarray, " n"],
    order: Int64[np.ndarray, " m"] | None,
    device: str,
    *,
    g0: Float64[np.ndarray, " m"] | None = None,
    team: Team = ALONE,
    resume: dict[str, Tensor] | None = None,
    save: Save | None = None,
) -> tuple[dict[str, Any], Int64[np.ndarray, " n"], Float64[np.ndarray, " m"] | None]:
    """Couple a block and draw one partner per source row.

    Args:
        options: method, epsilon and tolerance.
        x0: source features; of a team every member needs its own share alone.
        x1: target features.
        uniforms: one a source row, in [0, 1).
        order: a random order of the target rows for a balanced draw; None for a categorical one.
        device: where to compute.
        g0: a target potential to start from; see `known.start`.
        team, resume, save: as for `solve_sinkhorn`.

    Returns: the block's report, the target row of every source row, and the target potential where the method has one.
    """
    source, target = torch.from_numpy(x0).to(device), torch.from_numpy(x1).to(device)
    source = Share(len(source), len(target), source.device, team).gather(source)
    start = None if g0 is None else torch.from_numpy(g0).to(device)
    coupling = couple(options, source, target, g0=start, team=team, resume=resume, save=save)
    u = torch.from_numpy(uniforms).to(device)
    balance = None if order is None else torch.from_numpy(order).to(device)
    partners = coupling.draw(u) if balance is None else coupling.draw_balanced(u, balance)
    g = None if coupling.g is None else coupling.g.double().cpu().numpy()
    return dataclasses.asdict(coupling.report), partners.cpu().numpy(), g


def couple(
    options: CouplingConfig,
    x0: Float[Tensor, "n k"],
    x1: Float[Tensor, "m k"],
    *,
    g0: Float64[Tensor, " m"] | None = None,
    team: Team = ALONE,
    resume: dict[str, Tensor] | None = None,
    save: Save | None = None,
) -> ot.Coupling:
    """The coupling that the config asks for; its epsilon is relative, absolute, or found by its sharpness."""
    problem = ot.Problem(x0, x1, 1.0, cost=options.cost_function())
    if options.method == "exact":
        return ot.solve_exact(problem)
    if options.method == "independent":
        return ot.independent(problem)
    limits: dict[str, Any] = {"tol": options.tol, "max_passes": options.max_passes, "backend": options.backend}
    together: dict[str, Any] = {"team": team, "resume": resume, "save": save}
    if options.entropy is not None:
        return ot.solve_for_entropy(problem, options.entropy, **limits, **together)
    if options.rel_eps is not None:
        problem = problem.at(options.rel_eps, team)
    else:
        assert options.eps is not None, "the config fills in one of the three"
        problem = replace(problem, eps=options.eps)
    return ot.solve_sinkhorn(problem, g0=g0, **limits, **together)
