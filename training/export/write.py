"""`flowpairs export`: the files of a trained network in a directory of their own, all of them or none."""

import re
from pathlib import Path

from flowpairs.pipeline.base.atomic import atomic_directory, write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.export.card import card
from flowpairs.training.export.network import files
from flowpairs.training.run.trained import read_trained


def export(directory: str | Path, output: Path, license: str) -> list[str]:
    """Write the averaged weights, what makes them a network, and a model card.

    An earlier export of the same weights is written over, which brings its card up to date.

    Args:
        directory: of a finished run, or of one of a run's checkpoints.
        output: the directory to make.
        license: of the weights, for the card.

    Returns:
        The names of the files.

    Raises:
        InputError: no such run, a directory that holds something else, or what is no abbreviation of a license.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise InputError(f"--license {license!r}: not of Hugging Face's abbreviations; give one, as in apache-2.0")
    trained = read_trained(directory)
    where = f"--output {str(output)!r}"
    if output.exists() and not output.is_dir():
        raise InputError(f"{where}: a file is in the way; give another directory")
    held = output.is_dir() and any(output.iterdir())
    if held and not (output / "flow.json").is_file():
        raise InputError(f"{where}: not empty and not an export; give an empty or a new directory")
    out = files(trained) | {"README.md": card(trained, license).encode()}
    if not held:
        with atomic_directory(output) as temporary:
            _write(temporary, out)
    elif (output / "flow.json").read_bytes() == out["flow.json"]:
        _write(output, out)
    else:
        raise InputError(f"{where}: holds an export of other weights; give another directory")
    return sorted(out)


def _write(directory: Path, out: dict[str, bytes]) -> None:
    for name, data in out.items():
        (directory / name).parent.mkdir(exist_ok=True)
        write_atomically(directory / name, data)
