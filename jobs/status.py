"""`flowpairs status DIR`: show the progress of a coupling job or a training run, from its files alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flowpairs.pipeline.store.status import Status
    from flowpairs.training.run.status import RunStatus


def status(
    directory: Annotated[str, typer.Argument(help="the pair store or the training run, finished or not")],
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Show progress, pace, time left and quality of a job, while it runs or after it died.

    For a coupling job: blocks, pairs, the worst marginal error. For a training run: steps, loss, data wait, the newest
    checkpoint. It works on any machine that sees the directory.

    Example: `flowpairs status out/digits`
    """
    from flowpairs.pipeline.base.paths import as_path
    from flowpairs.pipeline.config import read_yaml

    where = as_path(directory)
    config = where / "config.yaml"
    found: Status | RunStatus
    if isinstance(where, Path) and config.is_file() and "train" in read_yaml(config):  # runs are never at URLs
        from flowpairs.training.run.status import read_run_status

        found = read_run_status(where)
        rows = _run_rows(found)
    else:
        from flowpairs import PairStore

        found = PairStore(where).status()
        rows = _store_rows(found)
    if json:
        from dataclasses import asdict
        from json import dumps

        print(dumps({"directory": str(where), **asdict(found)}))
        return
    from flowpairs.jobs._tables import print_rows

    print_rows(f"{where}: {'complete' if found.complete else 'not complete'}", rows)


def _store_rows(found: "Status") -> Iterator[tuple[str, str]]:
    """Yield the rows of the table for a pair store."""
    if found.potentials is not None:
        yield "potentials", f"{100 * found.potentials:.0f} %  {found.solve}"
    yield "blocks", f"{found.blocks:,} of {found.blocks_total:,}"
    yield "pairs", f"{found.pairs:,} of {found.pairs_total:,}"
    yield "bytes", f"{found.bytes:,}"
    yield "pairs/s", "unknown yet" if found.pairs_per_second is None else f"{found.pairs_per_second:,.0f}"
    if found.seconds_left is not None:
        yield "time left", _seconds(found.seconds_left)
    if found.worst_marginal_error is not None:
        yield "worst marginal error (L1)", f"{found.worst_marginal_error:.2e}"
    if found.seconds_since_last_shard is not None and not found.complete:
        yield "last shard", f"{found.seconds_since_last_shard:.0f} s ago"


def _run_rows(found: "RunStatus") -> Iterator[tuple[str, str]]:
    """Yield the rows of the table for a training run."""
    yield "steps", f"{found.step:,} of {found.steps:,}"
    if found.loss is not None:
        yield "loss", f"{found.loss:.4f}"
        yield "pairs/s", f"{found.pairs_per_second:,.0f}"
        yield "data wait", f"{100 * (found.data_wait or 0.0):.1f} %"
    if found.seconds_left is not None:
        yield "time left", _seconds(found.seconds_left)
    yield "checkpoint", found.checkpoint or "none yet"
    if found.seconds_since_last_line is not None and not found.complete:
        yield "last line of the log", f"{found.seconds_since_last_line:.0f} s ago"


def _seconds(left: float) -> str:
    from flowpairs.pipeline.base.progress import remaining

    return remaining(1.0, 1.0 + left, 1.0)


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(status)
