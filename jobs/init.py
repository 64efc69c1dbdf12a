"""`flowpairs init KIND DIR`: write a commented config of a coupling job and one of the training on its pairs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flowpairs.pipeline.base.printing import print_line

Kind = Literal["digits", "images", "latents", "cells", "two-sided"]
FILES = "couple.yaml", "train.yaml"


def init(
    kind: Annotated[Kind, typer.Argument(help="what the data are")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="where to write couple.yaml and train.yaml")],
    data: Annotated[str | None, typer.Option(help="path or URL of the data; else to be filled in")] = None,
    source: Annotated[str | None, typer.Option(help="of the data to start from, for two-sided")] = None,
) -> None:
    """Write two commented configs to start from, for digits, images, latents, cells or two data sets.

    Example: `flowpairs init images work --data photos`
    """
    from flowpairs.pipeline.base.errors import InputError

    if data is not None and kind == "digits":
        raise InputError(f"--data {data!r}: the digits come with scikit-learn; remove it, or init images")
    if source is not None and kind != "two-sided":
        raise InputError(f"--source {source!r}: {kind} start from noise or from themselves; remove it")
    write_configs(kind, directory, data, source)
    filled = kind == "digits" or (data is not None and (source is not None or kind != "two-sided"))
    steps = [
        *([] if filled else [f"edit               {directory / 'couple.yaml'}: data.path names no data yet"]),
        f"flowpairs plan     {directory / 'couple.yaml'}",
        f"flowpairs couple   {directory / 'couple.yaml'}",
        f"flowpairs train    {directory / 'train.yaml'}",
        f"flowpairs evaluate {directory / 'run'}",
    ]
    for step in steps:
        print_line(step)


def write_configs(kind: str, directory: Path, data: str | None, source: str | None) -> None:
    """Write the two configs of a kind.

    Raises:
        InputError: one of them is there already, or the directory cannot be made.
    """
    from importlib.resources import files
    from json import dumps

    from flowpairs.pipeline.base.errors import InputError

    for name in FILES:
        if (directory / name).exists():
            raise InputError(f"DIR={str(directory)!r}: has a {name}, which is not replaced; give another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            text = (files("flowpairs.configs") / "templates" / kind / name).read_text()
            values = {
                "DATA": data or "PATH-OF-YOUR-DATA",
                "SOURCE": source or "PATH-OF-YOUR-SOURCE",
                "DIR/pairs": str(directory / "pairs"),
                "DIR/run": str(directory / "run"),
            }
            for mark, value in values.items():
                text = text.replace(f'"{mark}"', dumps(value))
            (directory / name).write_text(text)
    except OSError as error:
        raise InputError(f"DIR={str(directory)!r}: {error.strerror or error}; give another directory") from error


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(init)
