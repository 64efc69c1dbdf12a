"""`flowpairs submit COMMAND CONFIG`: run a command on a cluster, by the HTTP address of its dashboard."""

from pathlib import Path
from typing import Annotated

import typer

from flowpairs.jobs.options import Address, Command


def submit(
    command: Annotated[Command, typer.Argument(help="what to run there")],
    config: Annotated[str, typer.Argument(help="YAML config, here; of evaluate, status, verify: the directory, there")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in output.dir=/shared/out")] = None,
    address: Address = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="return once it is submitted")] = False,
    pip: Annotated[Path | None, typer.Option(help="install first what this file pins, as constraints.txt")] = None,
) -> None:
    """Ship code and config, follow the log, and end with the job's exit status; submit again to resume the job.

    Every path must be absolute and on storage that the nodes share, or a URL.

    Example: `flowpairs submit couple configs/digits/couple.yaml output.dir=/shared/digits --address http://HEAD:8265`
    """
    import tempfile

    from flowpairs.jobs.remote.bundle import pack, pinned_requirements
    from flowpairs.jobs.remote.request import request

    job = request(command, config, overrides)
    from flowpairs.jobs.remote.dashboard import FOLLOW, Dashboard

    cluster = Dashboard(address)
    with tempfile.TemporaryDirectory(prefix="flowpairs-") as temporary:
        bundle = Path(temporary)
        pack(bundle, job.config)
        name = cluster.submit(job, bundle, None if pip is None else pinned_requirements(pip, bundle))
    print(f"{name}: submitted to {cluster.address}", flush=True)
    if no_wait:
        print(f"`{FOLLOW} {name}` follows it")
    else:
        raise typer.Exit(cluster.follow(name))


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(submit)
