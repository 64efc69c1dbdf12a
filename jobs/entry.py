"""The one way in which every command runs and fails.

Exit status 0: done. 2: bad input, reported in one sentence without a traceback. 1: failure. 128 and the number of a
signal: interrupted by Ctrl-C (130), SIGTERM (143) or a closed terminal (129).
"""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from flowpairs.pipeline.base import signals
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.printing import print_line
from flowpairs.pipeline.base.threads import cores

# Commands that keep nothing of half their work.
STARTS_OVER = {"plan", "verify", "evaluate", "sample", "export", "report", "worth"}
INTERRUPTED = 130  # typer's exit status after Ctrl-C
SETTINGS: dict[str, Any] = {"pretty_exceptions_enable": False, "add_completion": False, "rich_markup_mode": "markdown"}


def run_command(command: Callable[..., None]) -> None:
    """Run one command for `python -m jobs.NAME`, with the same rules as `flowpairs NAME`."""
    app = typer.Typer(**SETTINGS)
    app.command()(command)
    guarded(app, command.__name__)


def guarded(app: typer.Typer, command: str = "") -> None:
    """Run an application, and turn the errors that users can act on into one sentence and an exit status.

    Args:
        app: the application.
        command: the name of its only command; of several, the first argument names it.
    """
    command = command or next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    signals.end_as_interrupted()
    _open_streams()
    if (granted := cores()) < len(os.sched_getaffinity(0)):  # which is what torch and numpy would take
        os.environ.setdefault("OMP_NUM_THREADS", str(granted))
    try:
        app()
    except InputError as error:
        print_line(f"error: {error}", sys.stderr)
        sys.exit(2)
    except JobError as error:
        print_line(f"failed: {error}", sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        _end_interrupted(command)
    except KeyboardInterrupt:  # outside the application's own frame
        _end_interrupted(command)


def _open_streams() -> None:
    """Give a process that was started without standard streams some, before a file of a job gets their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _end_interrupted(command: str) -> NoReturn:
    what = "the same command starts over" if command in STARTS_OVER else "run the same command again to go on"
    print(f"interrupted; {what}", file=sys.stderr)
    sys.exit(signals.exit_status())
