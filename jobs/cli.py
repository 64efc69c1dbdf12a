"""The `flowpairs` command: one subcommand per module of this package, each imported when the command line is read."""

from importlib import import_module
from typing import Annotated

import typer

from flowpairs.jobs.entry import SETTINGS, guarded

COMMANDS = (
    "demo",
    "init",
    "config",
    "plan",
    "couple",
    "status",
    "verify",
    "convert",
    "write",
    "train",
    "stream",
    "evaluate",
    "sample",
    "export",
    "report",
    "worth",
    "submit",
    "jobs",
    "stop",
)


def print_versions(asked: bool) -> bool:
    """Print the versions of flowpairs, Python, Ray and torch, and the CUDA devices, and exit."""
    if not asked:
        return False
    import platform
    from importlib.metadata import version

    from torch import cuda

    from flowpairs import __version__

    print(f"flowpairs {__version__}")
    print(f"Python {platform.python_version()}")
    for package in ("ray", "torch"):
        print(f"{package} {version(package)}")
    for number in range(cuda.device_count()):
        print(f"cuda:{number} {cuda.get_device_name(number)}")
    if not cuda.device_count():
        print("no CUDA device")
    raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_versions, is_eager=True, help="print versions and devices, and exit"),
    ] = False,
) -> None:
    """Optimal-transport pairs for flow matching: couple as a batch job on Ray, then train on the pairs."""


def application() -> typer.Typer:
    """Build the application with all commands."""
    app = typer.Typer(no_args_is_help=True, **SETTINGS | {"add_completion": True})
    app.callback()(root)
    for name in COMMANDS:
        app.command()(getattr(import_module(f"flowpairs.jobs.{name}"), name))
    return app


def main() -> None:
    """Run the `flowpairs` command; this is its entry point."""
    guarded(application())


if __name__ == "__main__":
    main()
