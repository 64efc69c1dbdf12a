"""Tables for the terminal: one evaluation, and the comparison of runs in the words of the page."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flowpairs.pipeline.base.printing import rich_text
from flowpairs.training.report.seeds import group_runs
from flowpairs.training.report.summaries.collect import short_names
from flowpairs.training.report.summaries.runs import ReferenceFacts, read_run
from flowpairs.training.report.verdict import (
    CURVATURE,
    caveats,
    chance,
    floor,
    headline,
    number,
    scores,
    sentences,
    shown,
)


def print_comparison(directories: list[Path]) -> None:
    """Print curvature and Frechet distances of all runs, with the best of each column marked, and a verdict in words.

    Args:
        directories: the directories of the training runs.

    Raises:
        InputError: a file of a run cannot be read.
    """
    paths = [Path(directory).resolve() for directory in directories]
    groups = group_runs([read_run(path, name) for path, name in zip(paths, short_names(paths), strict=True)])
    measures, best_possible = scores(groups), floor(groups)
    table = Table(title=rich_text(headline(groups, measures)), title_justify="left", caption="lower is better; * best")
    table.add_column("run", overflow="fold")
    for score in measures:
        table.add_column(score.label, justify="right")
    for index, group in enumerate(groups):
        cells = []
        for score in measures:
            mark, evaluations = "*" if index in score.best else "", score.nfe[index]
            cells.append(f"{mark}{shown(score.means[index])}" + (f"\n{number(evaluations)} NFE" if evaluations else ""))
        table.add_row(rich_text(group.name), *cells)
    if best_possible is not None:
        table.add_row("real data", *("" if score.label == CURVATURE else shown(best_possible) for score in measures))
    console = Console()
    console.print(table)
    for sentence in [*sentences(groups, measures), *caveats(groups), chance(groups)]:
        console.print(rich_text(sentence))


def print_evaluation(report: dict[str, Any]) -> None:
    """Print the content of evaluation.json."""
    table = Table(
        title=rich_text(f"{report['run']}: {report['method']} pairs, {report['samples']:,} samples"),
        title_justify="left",
    )
    table.add_column("solver")
    table.add_column("NFE", justify="right")
    table.add_column("Frechet distance", justify="right")
    for row in report["frechet"]:
        table.add_row(row["solver"], f"{row['nfe']:g}", f"{row['fd']:.3f}")
    console = Console()
    console.print(table)
    if "time_points" in report:
        points = Table(title="time points: distances of the flow from the data there", title_justify="left")
        for heading in ("time", "W1", "W1 unmoved", "W2", "MMD"):
            points.add_column(heading, justify="right")
        for row in report["time_points"]:
            left_out = " (left out)" if row["left_out"] else ""
            figures = (f"{row[name]:.3f}" for name in ("w1", "w1_still", "w2", "mmd"))
            points.add_row(f"{row['time']:g}{left_out}", *figures)
        console.print(points)
    least = f"; {report['floor']:.3f} for as many real data" if report.get("floor") is not None else ""
    console.print(rich_text(f"curvature {report['curvature']:.3f}; Frechet distance on {report['features']}{least}"))
    console.print(rich_text(f"compared with {ReferenceFacts.model_validate(report['reference'])}"))
