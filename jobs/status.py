"""`flowpairs status DIR`: how far a coupling job or a training run is, from the files alone."""

from pathlib import Path
from typing import Annotated

import typer


def status(
    directory: Annotated[str, typer.Argument(help="the pair store or the training run, finished or not")],
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Show how much is done, the pace, the time left and how good it is, while the job runs or after it died.

    Of a coupling job: blocks, pairs, the worst marginal error. Of a training run: steps, loss, data wait, the last
    checkpoint. Any machine that sees the directory can ask.

    Example: `flowpairs status out/digits`
    """
    from flowpairs.pipeline.base.paths import as_path
    from flowpairs.pipeline.config import read_yaml

    where = as_path(directory)
    config = where / "config.yaml"
    if isinstance(where, Path) and config.is_file() and "train" in read_yaml(config):  # runs are never at URLs
        from flowpairs.training.run.status import print_run_status as print_run

        print_run(where, as_json=json)
        return
    from flowpairs.pipeline.store.status import print_status

    print_status(where, as_json=json)


if __name__ == "__main__":
    from flowpairs.jobs.run import run

    run(status)
