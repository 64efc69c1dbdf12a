"""The `flowpairs` command: one subcommand per module of this package, and one way for all of them to fail.

Exit status 0: done. 2: bad input, told in one sentence without a traceback. 1: failure.
"""

import sys
from collections.abc import Callable
from typing import Any

import typer

from jobs.convert import convert
from jobs.couple import couple
from jobs.demo import demo
from jobs.evaluate import evaluate
from jobs.export import export
from jobs.jobs import jobs
from jobs.plan import plan
from jobs.report import report
from jobs.sample import sample
from jobs.status import status
from jobs.stop import stop
from jobs.stream import stream
from jobs.submit import submit
from jobs.train import train
from jobs.verify import verify
from pipeline.errors import InputError, JobError

COMMANDS: tuple[Callable[..., None], ...] = (
    demo,
    plan,
    couple,
    status,
    verify,
    convert,
    train,
    stream,
    evaluate,
    sample,
    export,
    report,
    submit,
    jobs,
    stop,
)

INTERRUPTED = 130  # what typer makes of Ctrl-C
_SETTINGS: dict[str, Any] = {"pretty_exceptions_enable": False, "add_completion": False, "rich_markup_mode": "markdown"}


def main() -> None:
    """Entry point of `flowpairs`."""
    app = typer.Typer(
        help="Optimal-transport pairs for flow matching: couple as a batch job on Ray, then train on the pairs.",
        no_args_is_help=True,
        **_SETTINGS,
    )
    for command in COMMANDS:
        app.command()(command)
    _guarded(app)


def run(command: Callable[..., None]) -> None:
    """Entry point of `python -m jobs.NAME`: the same command under the same rules."""
    app = typer.Typer(**_SETTINGS)
    app.command()(command)
    _guarded(app)


def _guarded(app: typer.Typer) -> None:
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except JobError as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
