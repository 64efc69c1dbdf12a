"""`flowpairs stream CONFIG`: couple and train at the same time; training reads the shards as they appear."""

from pathlib import Path
from typing import Annotated

import typer

from flowpairs.jobs.options import DryRun


def stream(
    config: Annotated[Path, typer.Argument(help="YAML with `couple:` and `train:`, as configs/digits/stream.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in train.train.steps=4000")] = None,
    dry_run: DryRun = False,
) -> None:
    """Run a coupling job and the training job on its pairs side by side; run again to resume both.

    Example: `flowpairs stream configs/digits/stream.yaml couple.output.dir=out/digits train.output.dir=runs/digits`
    """
    from flowpairs.jobs.stream_config import StreamConfig
    from flowpairs.jobs.train import print_run
    from flowpairs.pipeline.config import load

    settings = load(StreamConfig, config, overrides)
    if dry_run:
        from flowpairs.jobs._dry_run import show_stream

        show_stream(settings)
        return
    from flowpairs.jobs._stream_job import stream as run_both
    from flowpairs.jobs._summary import print_summary
    from flowpairs.pipeline.base.paths import as_path
    from flowpairs.training.run.directory import RunDirectory

    run_both(settings)
    run = RunDirectory(Path(settings.train.output.dir))
    summary = run.summary()
    assert summary is not None
    print_summary(as_path(settings.couple.output.dir))
    print_run(run.path, summary)


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(stream)
