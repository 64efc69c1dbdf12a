"""The `flowpairs` command: one subcommand per module of this package."""

from collections.abc import Callable

import typer

from flowpairs.jobs.convert import convert
from flowpairs.jobs.couple import couple
from flowpairs.jobs.demo import demo
from flowpairs.jobs.evaluate import evaluate
from flowpairs.jobs.export import export
from flowpairs.jobs.jobs import jobs
from flowpairs.jobs.plan import plan
from flowpairs.jobs.report import report
from flowpairs.jobs.run import SETTINGS, guarded
from flowpairs.jobs.sample import sample
from flowpairs.jobs.status import status
from flowpairs.jobs.stop import stop
from flowpairs.jobs.stream import stream
from flowpairs.jobs.submit import submit
from flowpairs.jobs.train import train
from flowpairs.jobs.verify import verify

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


def main() -> None:
    """Entry point of `flowpairs`."""
    app = typer.Typer(
        help="Optimal-transport pairs for flow matching: couple as a batch job on Ray, then train on the pairs.",
        no_args_is_help=True,
        **SETTINGS,
    )
    for command in COMMANDS:
        app.command()(command)
    guarded(app)


if __name__ == "__main__":
    main()
