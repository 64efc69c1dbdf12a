"""The figures of one evaluation as a table for the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(report: dict[str, Any]) -> None:
    """Print what evaluation.json holds."""
    table = Table(
        title=f"{report['run']}: {report['method']} pairs, {report['samples']:,} samples", title_justify="left"
    )
    table.add_column("solver")
    table.add_column("NFE", justify="right")
    table.add_column("Frechet distance", justify="right")
    for row in report["frechet"]:
        table.add_row(row["solver"], f"{row['nfe']:g}", f"{row['fd']:.3f}")
    console = Console()
    console.print(table)
    if "time_points" in report:
        points = Table(title="time points: 1-Wasserstein distance to the data there", title_justify="left")
        for heading in ("time", "of the flow", "unmoved"):
            points.add_column(heading, justify="right")
        for row in report["time_points"]:
            left_out = " (left out)" if row["left_out"] else ""
            points.add_row(f"{row['time']:g}{left_out}", f"{row['w1']:.3f}", f"{row['w1_still']:.3f}")
        console.print(points)
    console.print(f"curvature {report['curvature']:.3f}; Frechet distance on {report['features']}")
