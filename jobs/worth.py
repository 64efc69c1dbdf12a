"""`flowpairs worth DIR [DIR ...]`: estimate what pairs are worth before a network is trained on them."""

from typing import TYPE_CHECKING, Annotated

import typer

from flowpairs.pipeline.base.printing import rich_text

if TYPE_CHECKING:
    from flowpairs.training.metrics.worth import StoreWorth


def worth(
    directories: Annotated[list[str], typer.Argument(metavar="DIR", help="complete pair stores, of data of one shape")],
    pairs: Annotated[int, typer.Option(help="pairs an estimate is made from; time grows as its cube", min=512)] = 4096,
    directions: Annotated[int, typer.Option(help="principal directions of the data that take part", min=1)] = 64,
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Estimate loss floor, curvature and errors of few Euler steps from the pairs alone, without a network.

    Every figure is shown from half of the pairs and from all of them.

    Example: `flowpairs worth out/pairs-sinkhorn out/pairs-independent`
    """
    from flowpairs.training.metrics.worth import worth_of_stores

    found = worth_of_stores(directories, pairs, directions)
    if json:
        from dataclasses import asdict
        from json import dumps

        print(dumps([asdict(store) for store in found]))
    else:
        print_worth(found)


def print_worth(found: "list[StoreWorth]") -> None:
    """Print a table with a row per store, and what it was made from."""
    from rich.console import Console
    from rich.table import Table

    from flowpairs.pipeline.base.paths import as_path
    from flowpairs.training.metrics.worth import worth_table
    from flowpairs.training.report.summaries.collect import short_names

    headings, rows = worth_table(found)
    names = short_names([as_path(store.directory).resolve() for store in found])
    first, console = found[0], Console()
    table = Table(title="what the pairs are worth; lower is better", title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right", overflow="fold", no_wrap=number > 0)
    for name, row in zip(names, rows, strict=True):
        table.add_row(*map(rich_text, [name, row[1], *(cell.replace(" ", "\n") for cell in row[2:])]))
    console.print(table)
    for line in (
        f"from {first.whole.pairs:,} pairs (from {first.half.pairs:,}), on {first.held_out:,} others",
        f"squared norms over {first.directions} principal directions, {100 * first.captured:.0f} % of the variance",
        "floor: of the loss; Euler k: squared distance of k steps from the trajectory's end",
    ):
        console.print(line)


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(worth)
