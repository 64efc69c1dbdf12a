"""The choice of a problem's backend: the one that the caller names, or the one for the kind of cost."""

from typing import Literal

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.backends.keops import KeOps
from flowpairs.pipeline.ot.backends.protocol import TORCH, Backend
from flowpairs.pipeline.ot.costs.formula import Formula
from flowpairs.pipeline.ot.problem import Problem

BackendName = Literal["auto", "torch", "keops"]


def choose(name: BackendName, problem: Problem) -> Backend:
    """Choose the backend for a problem.

    Args:
        name: "auto" takes KeOps for a cost that is a formula, and torch tiles for any other. The team's size plays no
            role, since pairs must not depend on it.
        problem: the block.

    Raises:
        InputError: an unknown name, or a backend that cannot serve the problem.
    """
    if name == "torch" or (name == "auto" and not isinstance(problem.cost, Formula)):
        return TORCH
    if name not in ("auto", "keops"):
        raise InputError(f"coupling.backend={name!r}: unknown; give auto, torch or keops")
    keops = KeOps()
    reason = keops.refusal(problem)
    if reason is not None:
        raise InputError(f"coupling.backend={name!r}: {reason}; give backend torch")
    return keops
