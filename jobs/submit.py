"""`flowpairs submit COMMAND CONFIG`: run a command on a cluster, by the HTTP address of its dashboard."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from flowpairs.jobs.entry import SETTINGS
from flowpairs.jobs.options import Address, Command


def submit(
    command: Annotated[Command, typer.Argument(help="what to run there")],
    config: Annotated[str, typer.Argument(help="YAML config, here; of evaluate, status, verify: the directory, there")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key.sub=value, as in output.dir=/mnt/out; after --: options"),
    ] = None,
    address: Address = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="return once it is submitted")] = False,
    pip: Annotated[Path | None, typer.Option(help="install first what this file pins, as constraints.txt")] = None,
) -> None:
    """Ship code and config, follow the log, and end with the job's exit status; submit again to resume the job.

    Every path must be absolute and on storage that the nodes share, or a URL. Options of the command itself come last,
    after two dashes: `-- --extend`.

    Example: `flowpairs submit couple configs/digits/couple.yaml output.dir=/shared/digits --address http://HEAD:8265`
    """
    import tempfile

    from flowpairs.jobs.remote.bundle import pack, pinned_requirements
    from flowpairs.jobs.remote.request import request

    job = request(command, config, *split_options(command, config, overrides or []))
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


def split_options(command: str, config: str, words: list[str]) -> tuple[list[str], list[str]]:
    """Separate the overrides of a command from its options, as the command itself would read them.

    Raises:
        InputError: the command has no such option, or an option is a relative path.
    """
    from flowpairs.pipeline.base.errors import InputError
    from flowpairs.pipeline.base.paths import refuse_relative

    app = typer.Typer(**SETTINGS)
    app.command()(getattr(import_module(f"flowpairs.jobs.{command}"), command))
    try:
        with typer.main.get_command(app).make_context(command, [config, *words]) as context:
            given = context.params
    except Exception as error:
        if not hasattr(error, "format_message"):  # an error of click, which typer brings in a copy of its own
            raise
        raise InputError(f"submit {command}: {error.format_message()}") from error
    for name, value in given.items():
        if isinstance(value, Path) and str(value) != config:
            refuse_relative(f"--{name.replace('_', '-')} ", str(value))
    overrides = list(given.get("overrides") or [])
    options, left = list[str](), list(overrides)
    for word in words:
        if left and word == left[0]:
            left.pop(0)
        else:
            options.append(word)
    return overrides, options


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(submit)
