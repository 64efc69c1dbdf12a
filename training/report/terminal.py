"""The comparison of runs as a table in the terminal, with the page's own words."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from flowpairs.training.report.collect import short_names
from flowpairs.training.report.runs import read_run
from flowpairs.training.report.verdict import caveats, headline, number, scores, sentences


def print_comparison(directories: list[Path]) -> None:
    """Print curvature and Frechet distances of all runs, the best of each column marked, and who won on what.

    Args:
        directories: training runs.

    Raises:
        InputError: a file of a run that cannot be read.
    """
    paths = [Path(directory).resolve() for directory in directories]
    runs = [read_run(path, name) for path, name in zip(paths, short_names(paths), strict=True)]
    measures = scores(runs)
    table = Table(title=headline(runs, measures), title_justify="left", caption="lower is better; * best")
    table.add_column("run", overflow="fold")
    for score in measures:
        table.add_column(score.label, justify="right")
    for place, run in enumerate(runs):
        cells = []
        for score in measures:
            mark, evaluations = "*" if place in score.best else "", score.nfe[place]
            cells.append(
                f"{mark}{number(score.values[place])}" + (f"\n{number(evaluations)} NFE" if evaluations else "")
            )
        table.add_row(run.name, *cells)
    console = Console()
    console.print(table)
    for sentence in sentences(runs, measures) + caveats(runs):
        console.print(sentence, highlight=False)
