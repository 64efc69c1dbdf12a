"""`flowpairs train CONFIG`: regress on the pairs of a store with Ray Train."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flowpairs.pipeline.base.printing import print_line


def train(
    config: Annotated[Path, typer.Argument(help="YAML config, such as configs/digits/train.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in train.steps=4000")] = None,
) -> None:
    """Train a flow on precomputed pairs; run again to resume from the newest checkpoint.

    Example: `flowpairs train configs/digits/train.yaml pairs.dir=out/digits output.dir=runs/digits`
    """
    from flowpairs.pipeline.config import load
    from flowpairs.training.config import TrainConfig

    settings = load(TrainConfig, config, overrides)
    from flowpairs.training.train import train as run_job

    print_run(Path(settings.output.dir), run_job(settings))


def print_run(run: Path, summary: dict[str, Any]) -> None:
    """Print the steps, loss and time of a finished run, and the paths of its checkpoint and curves."""
    print_line(f"steps {summary['steps']:,}  loss {summary['loss']:.4f}  {summary['seconds']:.0f} s of training")
    print_line(f"checkpoint  {run / summary['checkpoint']}")
    print_line(f"curves      {run / 'tensorboard'}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(train)
