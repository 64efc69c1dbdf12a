"""`flowpairs plan CONFIG`: what a coupling job will take on this cluster."""

from pathlib import Path
from typing import Annotated

import typer


def plan(
    config: Annotated[Path, typer.Argument(help="YAML config of a coupling job")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in coupling.n=4096")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Forecast seconds, memory of an actor and bytes of shards from a trial of a few seconds; refuse what cannot fit.

    Example: `flowpairs plan configs/digits/couple.yaml coupling.n=65536 output.pairs=1000000`
    """
    from flowpairs.pipeline.config import CoupleConfig, load

    settings = load(CoupleConfig, config, overrides)
    from flowpairs.pipeline.plan import plan as forecast
    from flowpairs.pipeline.plan import print_plan

    print_plan(forecast(settings), as_json=json)


if __name__ == "__main__":
    from flowpairs.jobs.run import run

    run(plan)
