"""The choice of a problem's backend: the one that the caller names, or one by device and number of features."""

from typing import Literal

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.backends.flash import Flash
from flowpairs.pipeline.ot.backends.keops import KeOps
from flowpairs.pipeline.ot.backends.protocol import TORCH, Backend
from flowpairs.pipeline.ot.problem import Problem

BackendName = Literal["auto", "torch", "keops", "flash"]

FEW = 16  # largest number of features at which computing a product costs less than writing it to memory


def choose(name: BackendName, problem: Problem) -> Backend:
    """Choose the backend for a problem.

    Args:
        name: "auto" takes torch tiles on a CPU; on CUDA it takes KeOps up to 16 features and flash-sinkhorn above,
            where they are installed and support the cost and the dtype, and torch tiles otherwise. The team's size
            plays no role, since pairs must not depend on it.
        problem: the block.

    Raises:
        InputError: an unknown name, or a named backend that cannot serve the problem.
    """
    if name == "torch":
        return TORCH
    if name == "auto":
        if not problem.x0.is_cuda:
            return TORCH
        preferred = KeOps() if problem.x0.shape[1] <= FEW else Flash()
        return preferred if preferred.refusal(problem) is None else TORCH
    if name not in ("keops", "flash"):
        raise InputError(f"coupling.backend={name!r}: unknown; give auto, torch, keops or flash")
    named = KeOps() if name == "keops" else Flash()
    reason = named.refusal(problem)
    if reason is not None:
        raise InputError(f"coupling.backend={name!r}: {reason}; give backend torch or auto")
    return named
