"""The report's comparison table and verdict for the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.report import verdict
from training.report.collect import collect


def print_comparison(runs: list[Path]) -> None:
    """Print which run won which figure, in a table and in words, whichever way it went."""
    _, collected = collect(runs)
    table = Table(title="lower is better; * marks the best", title_justify="left")
    scores = verdict.scores(collected)
    table.add_column("pairs")
    for score in scores:
        table.add_column(score.label if score.label == "Curvature" else f"FD {score.label}", justify="right")
    for place, run in enumerate(collected):
        cells = []
        for score in scores:
            nfe = f" ({score.nfe[place]} NFE)" if score.nfe[place] is not None else ""
            star = "*" if place in score.best else ""
            cells.append(f"{verdict.number(score.values[place])}{star}{nfe}")
        table.add_row(run.train.method, *cells)
    console = Console()
    console.print(table)
    for sentence in [verdict.headline(collected, scores) + ".", *verdict.sentences(collected, scores)]:
        console.print(sentence, highlight=False)
