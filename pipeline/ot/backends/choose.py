"""The choice of a problem's backend: the one that the caller names, or the one for the kind of cost."""

from typing import Literal

import torch

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.backends.fused.backend import Fused, unserved
from flowpairs.pipeline.ot.backends.keops import KeOps
from flowpairs.pipeline.ot.backends.protocol import TORCH, Backend
from flowpairs.pipeline.ot.costs.formula import Formula
from flowpairs.pipeline.ot.problem import Problem

BackendName = Literal["auto", "torch", "keops", "triton"]


def choose(name: BackendName, problem: Problem) -> Backend:
    """Choose the backend for a problem.

    Args:
        name: "auto" takes KeOps for a cost that is a formula, Triton for the others that it serves on CUDA, and torch
            tiles for all else. The team's size plays no role, since pairs must not depend on it.
        problem: the block.

    Raises:
        InputError: an unknown name, or a backend that cannot serve the problem.
    """
    if name == "auto" and not isinstance(problem.cost, Formula):
        fused = Fused()
        return fused if problem.x0.is_cuda and fused.refusal(problem) is None else TORCH
    if name == "torch":
        return TORCH
    if name not in ("auto", "keops", "triton"):
        raise InputError(f"coupling.backend={name!r}: unknown; give auto, torch, keops or triton")
    named = Fused() if name == "triton" else KeOps()
    reason = named.refusal(problem)
    if reason is not None:
        raise InputError(f"coupling.backend={name!r}: {reason}; give backend torch")
    return named


def choose_for_products(name: BackendName, device: torch.device) -> Literal["torch", "triton"]:
    """Choose the backend of scores that are products of points, which have no problem of their own.

    Args:
        name: "auto" takes Triton on a GPU that its kernels serve, else torch.
        device: where the points are.

    Raises:
        InputError: a backend that cannot serve the device.
    """
    if name == "torch":
        return "torch"
    if name not in ("auto", "triton"):
        raise InputError(
            f"coupling.backend={name!r}: does not serve semi-discrete couplings; give auto, torch or triton"
        )
    reason = unserved(device)
    if name == "triton" and reason is not None:
        raise InputError(f"coupling.backend={name!r}: {reason}; give backend torch")
    return "triton" if reason is None and (name == "triton" or device.type == "cuda") else "torch"
