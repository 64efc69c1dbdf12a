"""Packages that only parts of flowpairs need; they are installed by extras, `pip install 'flowpairs[NAME]'`."""

from importlib.util import find_spec

from flowpairs.pipeline.base.errors import InputError

# Package -> the extra that installs it.
EXTRAS = {
    "sklearn": "digits",
    "h5py": "cells",
    "tensorboard": "train",
    "diffusers": "train",
    "safetensors": "train",
    "jinja2": "report",
    "matplotlib": "report",
}


def require(what: str, *packages: str, extra: str | None = None) -> None:
    """Refuse a request whose packages are not installed.

    Args:
        what: subject of the sentence that needs the packages: a key with its value, or a command.
        packages: names by which the packages are imported.
        extra: extra that installs all of them; None: that of the first missing package.

    Raises:
        InputError: a package is missing; names the extra to install.
    """
    missing = [package for package in packages if (spec := find_spec(package)) is None or spec.origin is None]
    if missing:
        remedy = f"pip install 'flowpairs[{extra or EXTRAS[missing[0]]}]'"
        raise InputError(f"{what}: needs {', '.join(missing)}, not installed here; {remedy}")
