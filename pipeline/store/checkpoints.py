"""Checkpoints of solves on disk: a killed process loses the passes since the last one, and the result keeps its bits.

A checkpoint is an .npz of tensors; that of a semi-discrete solve has a .json alongside with its progress for people to
read.
"""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from flowpairs.pipeline.base.atomic import atomic_open, write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import load_npz
from flowpairs.pipeline.base.paths import AnyPath, refuse_special

if TYPE_CHECKING:
    from torch import Tensor

PROGRESS_EVERY = 1.0  # seconds between two updates of the progress file


def load_checkpoint(path: AnyPath) -> "dict[str, Tensor] | None":
    """Read what a solve last recorded, for its `resume`; None where there is no checkpoint.

    Raises:
        InputError: the file is damaged.
    """
    import torch

    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return {name: torch.from_numpy(values) for name, values in load_npz(file).items()}
    except Exception as error:  # zip and header parsers raise a dozen kinds of exceptions
        raise InputError(f"{path}: not the record of a solve ({error}); remove it and run the job again") from error


def checkpoint_writer(path: AnyPath, seconds: float) -> "Callable[[dict[str, Tensor]], None]":
    """Make a solver's `save`, which writes at most once in this number of seconds."""
    last = time.monotonic()

    def save(arrays: "dict[str, Tensor]") -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            with atomic_open(path) as file:
                np.savez(file, allow_pickle=False, **{name: value.cpu().numpy() for name, value in arrays.items()})
            last = time.monotonic()

    return save


def progress_writer(path: AnyPath, target: float) -> Callable[[int, int, float], None]:
    """Make a semi-discrete solver's `progress`, whose file others read with `read_progress`.

    Args:
        path: path of the checkpoint.
        target: chi-square at which the solve ends.
    """
    last = -PROGRESS_EVERY

    def write(rounds: int, points: int, chi2: float) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_EVERY:
            line = {"rounds": rounds, "points": points, "chi2": chi2, "target": target}
            write_atomically(path.with_suffix(".json"), json.dumps(line).encode())
            last = time.monotonic()

    return write


def read_progress(path: AnyPath) -> dict[str, float] | None:
    """Read what the solve of this checkpoint last reported: rounds, points, chi-square and its target.

    None where there is nothing to read.
    """
    try:
        refuse_special(path.with_suffix(".json"))
        line = json.loads(path.with_suffix(".json").read_bytes())
        return {key: float(line[key]) for key in ("rounds", "points", "chi2", "target")}
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None  # none yet, or damaged: people see no progress, and the solve needs none


def remove_checkpoint(path: AnyPath) -> None:
    """Remove the checkpoint of a finished solve and its progress file."""
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
