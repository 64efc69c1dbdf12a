"""`flowpairs export RUN`: write a trained network for users who do not have this project."""

from pathlib import Path
from typing import Annotated

import typer

from flowpairs.pipeline.base.printing import print_line


def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run, or a directory in RUN/checkpoints")],
    output: Annotated[Path, typer.Option(help="the directory to make")],
    license: Annotated[str, typer.Option(help="for the model card, as Hugging Face abbreviates it")] = "unknown",
) -> None:
    """Write averaged weights as safetensors (UNets in diffusers' layout), with a model card that shows how to sample.

    Example: `flowpairs export runs/digits --output digits-model`
    """
    from flowpairs.pipeline.base.environment import require

    require("flowpairs export", "safetensors", "jinja2")
    from flowpairs.training.export.write import export as run_job

    print_line(f"{output}: {', '.join(run_job(run_dir, output, license))}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(export)
