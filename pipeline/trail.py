"""How far the solve of a block has come, on disk: a killed actor costs the passes since then, and no bits."""

import time
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import InputError
from pipeline.files import whole
from pipeline.place import Place

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.ot.descent import Save
    from pipeline.ot.share import Team


def load(directory: Place, block: int) -> "dict[str, Tensor] | None":
    """What the solve of a block last recorded, for `solve_sinkhorn(resume=)`; None where it is to start.

    Raises:
        InputError: the file is damaged.
    """
    import torch

    path = _file(directory, block)
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    except Exception as error:  # zip and header parsers raise a dozen kinds of them
        raise InputError(f"{path}: not the record of a solve ({error}); remove it and run the job again") from error


def saver(directory: Place, block: int, seconds: float, team: "Team") -> "Save | None":
    """A `save` for the solver that writes at most every so many seconds; for the first member of a team."""
    if team.rank:
        return None
    last = time.monotonic()

    def save(arrays: "dict[str, Tensor]") -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            with whole(_file(directory, block)) as file:
                np.savez(file, allow_pickle=False, **{name: value.cpu().numpy() for name, value in arrays.items()})
            last = time.monotonic()

    return save


def remove(directory: Place, block: int) -> None:
    """Forget the record of a block that is solved."""
    _file(directory, block).unlink(missing_ok=True)


def _file(directory: Place, block: int) -> Place:
    return directory / "potentials" / f"b{block:06d}.trail.npz"
