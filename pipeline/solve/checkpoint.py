"""How far a solve has come, on disk: a killed actor costs the passes since then, and no bits."""

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from flowpairs.pipeline.base.atomic import atomic_open, write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath

if TYPE_CHECKING:
    from torch import Tensor

    from flowpairs.pipeline.ot.semidiscrete.solver import RoundProgress
    from flowpairs.pipeline.ot.sinkhorn.descent import Save
    from flowpairs.pipeline.ot.tiles.partition import Team

TELL_EVERY = 1.0  # seconds


def load_checkpoint(path: AnyPath) -> "dict[str, Tensor] | None":
    """What a solve last recorded, for its `resume`; None where it is to start.

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


def checkpoint_writer(path: AnyPath, seconds: float, team: "Team") -> "Save | None":
    """A `save` for the solver that writes at most every so many seconds; for the first member of a team."""
    if team.rank:
        return None
    last = time.monotonic()

    def save(arrays: "dict[str, Tensor]") -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            with atomic_open(path) as file:
                np.savez(file, allow_pickle=False, **{name: value.cpu().numpy() for name, value in arrays.items()})
            last = time.monotonic()

    return save


def progress_writer(path: AnyPath, team: "Team", wanted: float) -> "RoundProgress | None":
    """A `progress` for the semi-discrete solver that others read with `told`; for the first member of a team."""
    if team.rank:
        return None
    last = -TELL_EVERY

    def tell(rounds: int, points: int, chi2: float) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_EVERY:
            line = {"rounds": rounds, "points": points, "chi2": chi2, "wanted": wanted}
            write_atomically(path.with_suffix(".json"), json.dumps(line).encode())
            last = time.monotonic()

    return tell


def read_progress(path: AnyPath) -> dict[str, Any] | None:
    """The rounds, points and chi-square that the solve recorded at `path` last told, and what it wants."""
    try:
        return json.loads(path.with_suffix(".json").read_bytes())
    except FileNotFoundError:
        return None


def remove_checkpoint(path: AnyPath) -> None:
    """Forget the record of what is solved."""
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)


def checkpoint_file(directory: AnyPath, block: int) -> AnyPath:
    """Where the solve of a block is recorded."""
    return directory / "potentials" / f"b{block:06d}.trail.npz"
