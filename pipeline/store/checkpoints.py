"""How far a solve has come, on disk: a killed process costs the passes since then, and no bits.

A checkpoint is an .npz of tensors; of a semi-discrete solve a .json beside it says the same for people to read.
"""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from flowpairs.pipeline.base.atomic import atomic_open, write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath

if TYPE_CHECKING:
    from torch import Tensor

PROGRESS_EVERY = 1.0  # seconds between two lines of progress


def load_checkpoint(path: AnyPath) -> "dict[str, Tensor] | None":
    """Read what a solve last recorded, for its `resume`; None where it starts.

    Raises:
        InputError: the file is damaged.
    """
    import torch

    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    except Exception as error:  # zip and header parsers raise a dozen kinds of them
        raise InputError(f"{path}: not the record of a solve ({error}); remove it and run the job again") from error


def checkpoint_writer(path: AnyPath, seconds: float) -> "Callable[[dict[str, Tensor]], None]":
    """A solver's `save` that writes at most every so many seconds."""
    last = time.monotonic()

    def save(arrays: "dict[str, Tensor]") -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            with atomic_open(path) as file:
                np.savez(file, allow_pickle=False, **{name: value.cpu().numpy() for name, value in arrays.items()})
            last = time.monotonic()

    return save


def progress_writer(path: AnyPath, target: float) -> Callable[[int, int, float], None]:
    """A semi-discrete solver's `progress`, which others read with `read_progress`.

    Args:
        path: of the checkpoint.
        target: the chi-square that the solve ends at.
    """
    last = -PROGRESS_EVERY

    def write(rounds: int, points: int, chi2: float) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_EVERY:
            line = {"rounds": rounds, "points": points, "chi2": chi2, "target": target}
            write_atomically(path.with_suffix(".json"), json.dumps(line).encode())
            last = time.monotonic()

    return write


def read_progress(path: AnyPath) -> dict[str, Any] | None:
    """Read the rounds, points, chi-square and its target that the solve of this checkpoint last wrote."""
    try:
        return json.loads(path.with_suffix(".json").read_bytes())
    except FileNotFoundError:
        return None


def remove_checkpoint(path: AnyPath) -> None:
    """Remove the record of a finished solve."""
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
