"""`flowpairs jobs`: list or follow the jobs that were submitted to a cluster."""

from typing import TYPE_CHECKING, Annotated

import typer

from flowpairs.jobs.options import Address

if TYPE_CHECKING:
    from flowpairs.jobs.remote.dashboard import SubmittedJob


def jobs(
    address: Address = None,
    follow: Annotated[
        str | None, typer.Option(metavar="ID", help="print this job's log to its end; end with its exit status")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """List the jobs of a cluster, or follow the log of one.

    Example: `flowpairs jobs --address http://HEAD:8265`
    """
    from flowpairs.jobs.remote.dashboard import Dashboard

    cluster = Dashboard(address)
    if follow is not None:
        raise typer.Exit(cluster.follow(follow))
    listed = cluster.jobs()
    if json:
        from dataclasses import asdict
        from json import dumps

        print(dumps([asdict(job) for job in listed], indent=1))
    else:
        print_jobs(listed)


def print_jobs(listed: list["SubmittedJob"]) -> None:
    """Print one line per job, without a table, whose frame would break names and directories that users copy."""
    from datetime import datetime, timedelta
    from time import time

    if not listed:
        print("no jobs yet")
    width = max((len(job.id) for job in listed), default=0)
    if listed:
        print(f"{'job':{width}}  {'status':<10}  {'began':<11}  {'took':<7}  output")
    for job in listed:
        start = job.started or time()
        took = timedelta(seconds=int((job.ended or time()) - start))
        status = job.status if job.exit_code in (None, 0) else f"{job.status} ({job.exit_code})"
        began = datetime.fromtimestamp(start).strftime("%m-%d %H:%M")
        about = ", ".join((job.output or job.entrypoint).splitlines())
        print(f"{job.id:{width}}  {status:<10}  {began}  {took}  {about}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(jobs)
