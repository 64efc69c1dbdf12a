"""`flowpairs plan CONFIG`: forecast the time, memory and storage of a coupling job on this cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowpairs.pipeline.base.printing import counted

if TYPE_CHECKING:
    from flowpairs.pipeline.plan import Plan


def plan(
    config: Annotated[Path, typer.Argument(help="YAML config of a coupling job")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in coupling.n=4096")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Forecast seconds, memory per actor and bytes of shards from a trial of a few seconds; refuse what cannot fit.

    Example: `flowpairs plan configs/digits/couple.yaml coupling.n=65536 output.pairs=1000000`
    """
    from flowpairs.pipeline.config import CoupleConfig, load

    settings = load(CoupleConfig, config, overrides)
    from flowpairs import PairStore

    print_plan(PairStore.of(settings).plan(), as_json=json)


def print_plan(forecast: "Plan", as_json: bool) -> None:
    """Print a forecast as a short table, or as one JSON object."""
    if as_json:
        from dataclasses import asdict
        from json import dumps

        print(dumps(asdict(forecast)))
        return
    from flowpairs.jobs._tables import print_rows

    rows = [
        ("pairs", f"{forecast.pairs:,} from {counted(forecast.blocks, 'block')} of {forecast.n:,} x {forecast.m:,}"),
        ("left to do", _left(forecast)),
        ("actors", f"{forecast.actors}, {forecast.actors_per_block} per block"),
        ("seconds per block", f"{forecast.block_seconds:.2f}"),
        ("seconds", f"{forecast.seconds:,.0f}, {forecast.start_seconds:.0f} of them to start"),
        ("actor hours", f"{forecast.seconds * forecast.actors / 3600:.2f}"),
        ("memory per actor", f"{forecast.actor_bytes / 2**30:.2f} GiB"),
        *([("GPU memory per actor", f"{forecast.gpu_bytes / 1e9:.1f} GB")] if forecast.gpu_bytes else []),
        ("memory of the driver", f"{forecast.head_bytes / 2**30:.2f} GiB"),
        ("shards", f"{forecast.shards:,}, {forecast.shard_bytes / 1e6:,.0f} MB, payload {forecast.payload}"),
        ("rows and features", f"{forecast.data_bytes / 1e6:,.0f} MB"),
        ("this forecast took", f"{forecast.trial_seconds:.0f} s"),
    ]
    if forecast.potential_points:
        drawn = f"about {forecast.potential_points:,} points in {forecast.potential_seconds:,.0f} s"
        rows.insert(0, ("potentials", drawn))
    print_rows("what the job will take", rows)


def _left(forecast: "Plan") -> str:
    """Describe the work that is left."""
    if forecast.blocks_left == forecast.blocks:
        return "all" if forecast.blocks or forecast.potential_points else "nothing"
    if not forecast.blocks_left:
        return "nothing: every shard is there"
    return f"{counted(forecast.blocks_left, 'block')}, {counted(forecast.pairs_left, 'pair')}"


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(plan)
