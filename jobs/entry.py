"""The one way in which every command runs and fails.

Exit status 0: done. 2: bad input, reported in one sentence without a traceback. 1: failure.
"""

import sys
from collections.abc import Callable
from typing import Any

import typer

from flowpairs.pipeline.base.errors import InputError, JobError

INTERRUPTED = 130  # typer's exit status after Ctrl-C
SETTINGS: dict[str, Any] = {"pretty_exceptions_enable": False, "add_completion": False, "rich_markup_mode": "markdown"}


def run_command(command: Callable[..., None]) -> None:
    """Run one command for `python -m jobs.NAME`, with the same rules as `flowpairs NAME`."""
    app = typer.Typer(**SETTINGS)
    app.command()(command)
    guarded(app)


def guarded(app: typer.Typer) -> None:
    """Run an application, and turn the errors that users can act on into one sentence and an exit status."""
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
