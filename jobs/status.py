"""`flowpairs status DIR`: how far a coupling job is, from the files alone."""

from typing import Annotated

import typer


def status(
    directory: Annotated[str, typer.Argument(help="the pair store, finished or not")],
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Show blocks, pairs, pace, time left and the worst marginal error, while the job runs or after it died.

    Example: `flowpairs status out/digits`
    """
    from pipeline.place import place
    from pipeline.store.status import print_status

    print_status(place(directory), as_json=json)


if __name__ == "__main__":
    from jobs.cli import run

    run(status)
