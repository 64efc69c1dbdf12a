"""The two-column table that several commands print."""

from collections.abc import Iterable

from flowpairs.pipeline.base.printing import rich_text


def print_rows(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print names and their values in a table with a title."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=rich_text(title), show_header=False)
    for row in rows:
        table.add_row(*map(rich_text, row))
    Console().print(table)
