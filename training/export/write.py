"""`flowpairs export`: writes the files of a trained network to a directory of their own, all of them or none."""

import re
from pathlib import Path

from flowpairs.pipeline.base.atomic import atomic_directory, write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.config import OwnConfig
from flowpairs.training.export.card import card
from flowpairs.training.export.network import files
from flowpairs.training.run.trained import read_trained


def export(directory: str | Path, output: Path, license: str) -> list[str]:
    """Write the averaged weights, the config and code that turn them into a network, and a model card.

    An earlier export of the same weights is overwritten, which updates its card.

    Args:
        directory: the directory of a finished run, or of one checkpoint of a run.
        output: the directory to create.
        license: the license of the weights, for the card.

    Returns:
        The names of the files.

    Raises:
        InputError: the run does not exist, the output holds something else, or the license is not an abbreviation.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise InputError(f"--license {license!r}: not of Hugging Face's abbreviations; give one, as in apache-2.0")
    trained = read_trained(directory)
    if isinstance(model := trained.config.model, OwnConfig):
        raise InputError(
            f"run {str(directory)!r}: its network is {model.network}, whose code export cannot pack; publish your "
            "module and the averaged weights, which are `ema` in the run's last checkpoint"
        )
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
