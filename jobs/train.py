"""`flowpairs train CONFIG`: regress on the pairs of a store with Ray Train."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowpairs.jobs.options import DryRun
from flowpairs.pipeline.base.printing import print_line

if TYPE_CHECKING:
    from flowpairs.training.config import TrainConfig


def train(
    config: Annotated[Path, typer.Argument(help="YAML config, such as configs/digits/train.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in train.steps=4000")] = None,
    dry_run: DryRun = False,
) -> None:
    """Train a flow on precomputed pairs; run again to resume from the newest checkpoint.

    Example: `flowpairs train configs/digits/train.yaml pairs.dir=out/digits output.dir=runs/digits`
    """
    from flowpairs.pipeline.config import load
    from flowpairs.training.config import TrainConfig

    settings = load(TrainConfig, config, overrides)
    if dry_run:
        from flowpairs.jobs._dry_run import show_training

        show_training(settings)
        return
    from flowpairs.training.train import train as run_job

    say_where_it_stands(settings)
    print_run(Path(settings.output.dir), run_job(settings))


def say_where_it_stands(settings: "TrainConfig") -> None:
    """Print whether a run that was begun goes on, is finished already, or starts over; nothing of a new one."""
    from flowpairs.training.run.directory import RunDirectory, check_output
    from flowpairs.training.run.status import read_run_status

    run = RunDirectory(Path(settings.output.dir))
    if not check_output(settings):
        return
    found, steps = read_run_status(run.path), settings.train.steps
    if found.finished(steps):
        said = "finished already; nothing is trained"
    elif found.checkpoint:
        said = f"going on from {found.checkpoint}, to step {steps:,}"
    else:
        said = "begun without a checkpoint; starting over"
    print_line(f"{run.path}: {said}", sys.stderr)


def print_run(run: Path, summary: dict[str, Any]) -> None:
    """Print the steps, loss and time of a finished run, and the paths of its checkpoint and curves."""
    print_line(f"steps {summary['steps']:,}  loss {summary['loss']:.4f}  {summary['seconds']:.0f} s of training")
    print_line(f"checkpoint  {run / summary['checkpoint']}")
    print_line(f"curves      {run / 'tensorboard'}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(train)
