"""Packages that only a part of flowpairs needs: they come with extras, `pip install 'flowpairs[NAME]'`."""

from importlib.util import find_spec

from flowpairs.pipeline.base.errors import InputError

# Package -> the extra that installs it.
EXTRAS = {
    "sklearn": "digits",
    "tensorboard": "train",
    "diffusers": "train",
    "safetensors": "train",
    "jinja2": "report",
    "matplotlib": "report",
}


def require(what: str, *packages: str, extra: str | None = None) -> None:
    """Refuse what needs a package that is not installed.

    Args:
        what: needs them, for the sentence: a key with its value, or a command.
        packages: names by which they are imported.
        extra: that installs all of them; None: the one of the first missing package.

    Raises:
        InputError: one of them is missing; says which extra to install.
    """
    missing = [package for package in packages if (spec := find_spec(package)) is None or spec.origin is None]
    if missing:
        remedy = f"pip install 'flowpairs[{extra or EXTRAS[missing[0]]}]'"
        raise InputError(f"{what}: needs {', '.join(missing)}, not installed here; {remedy}")
