"""`flowpairs plan CONFIG`: forecast the time, memory and storage of a coupling job on this cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowpairs.pipeline.base.printing import counted, print_line

if TYPE_CHECKING:
    from flowpairs.jobs._choose import Candidate, Choice
    from flowpairs.pipeline.plan import Plan


def plan(
    config: Annotated[Path, typer.Argument(help="YAML config of a coupling job")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, as in coupling.n=4096")] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
    choose: Annotated[
        float | None,
        typer.Option(metavar="HOURS", help="propose method, n and sharpness for so many GPU hours (else actor hours)"),
    ] = None,
) -> None:
    """Forecast seconds, memory per actor and bytes of shards from a trial of a few seconds; refuse what cannot fit.

    Example: `flowpairs plan configs/digits/couple.yaml coupling.n=65536 output.pairs=1000000`
    """
    from flowpairs.pipeline.config import CoupleConfig, load

    if choose is not None:
        from flowpairs.jobs._choose import choose_coupling

        found = choose_coupling(lambda lines: load(CoupleConfig, config, [*(overrides or []), *lines]), choose)
        print_choice(found, as_json=json)
        return
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


def print_choice(found: "Choice", as_json: bool) -> None:
    """Print what was considered for a budget and what is proposed, or one JSON object."""
    if as_json:
        from dataclasses import asdict
        from json import dumps

        rows = [asdict(one) | {"hours": one.hours if one.bytes else None} for one in found.candidates]
        print(dumps(asdict(found) | {"candidates": rows}))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    title = f"pairs for {found.budget:g} {found.device} hours"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in ("method", "n", "rel_eps", "hours", "GiB", "floor", "curvature", "Euler 4", "certainty"):
        table.add_column(heading, justify="left" if heading in ("method", "certainty") else "right", no_wrap=True)
    for one in found.candidates:
        n, eps = f"{one.n:,}" if one.method == "sinkhorn" else "", "" if one.rel_eps is None else f"{one.rel_eps:g}"
        forecast = [f"{one.hours:.2g}", f"{one.bytes / 2**30:.2g}"] if one.bytes else ["", ""]
        figures = ["", "", ""]
        if one.worth is not None:
            figures = [f"{figure:.3g}" for figure in (one.worth.floor, one.worth.curvature, one.worth.errors[4])]
        table.add_row(one.method, n, eps, *forecast, *figures, _certainty(one, found))
    Console().print(table)
    for reason in dict.fromkeys(one.refused for one in found.candidates if one.refused):
        print_line(f"left out, {', '.join(one.name for one in found.candidates if one.refused == reason)}: {reason}")
    trend = any(one.last is not None for one in found.candidates)
    best, pairs = found.proposal, f"{found.pairs:,} pairs, on {found.held_out:,} others"
    hours = f"about {best.hours:.2g} {found.device} hours"
    for line in (
        f"figures from {pairs}, over {found.directions} directions, {100 * found.captured:.0f} % of the variance",
        *(["trend from F: of smaller couplings, the largest of which that was tried has the floor F"] if trend else []),
        f"lower is better; floors within {100 * found.level:g} % are level, and the cheapest of them is proposed:",
        f"{best.name}, {hours}{'' if best.last is None else ', by the trend alone'}",
        f"  {' '.join(best.overrides)}",
        f"this took {found.seconds:.0f} s",
    ):
        print_line(line)


def _certainty(one: "Candidate", found: "Choice") -> str:
    """Say where the figures of a candidate come from, or why it has none."""
    if one.refused:
        return "left out"
    if one.hours > found.budget:
        return "over budget"
    if one.worth is None:
        return "not tried"
    return "tried" if one.last is None else f"trend from {one.last.floor:.3g}"


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(plan)
