"""Types of options and arguments that several commands share."""

from typing import Annotated, Literal

import typer

Address = Annotated[
    str | None, typer.Option(envvar="RAY_ADDRESS", help="the dashboard's URL, as in http://127.0.0.1:8265")
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="check everything, say what would be done, and do nothing")]

Command = Literal["couple", "plan", "status", "verify", "train", "stream", "evaluate"]
