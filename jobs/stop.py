"""`flowpairs stop ID`: end a job on a cluster."""

from typing import Annotated

import typer

from flowpairs.jobs.options import Address


def stop(
    job: Annotated[str, typer.Argument(metavar="ID", help="as `flowpairs jobs` lists it")],
    address: Address = None,
) -> None:
    """End a submitted job; finished work is kept, and the job resumes from it when submitted again.

    Example: `flowpairs stop couple-digits-1a2b3c-1 --address http://HEAD:8265`
    """
    from flowpairs.jobs.remote.dashboard import Dashboard

    print(f"{job}: {Dashboard(address).stop(job).status.lower()}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(stop)
