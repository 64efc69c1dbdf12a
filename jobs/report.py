"""`flowpairs report`: show pair stores and training runs on one HTML page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    directories: Annotated[list[str], typer.Argument(help="pair stores and training runs, in the order to show them")],
    output: Annotated[
        Path | None, typer.Option(help="the HTML file to write", show_default="report.html in the first directory")
    ] = None,
    pages: Annotated[
        Path | None, typer.Option(help="a folder for a page each and index.html, instead of one page for all")
    ] = None,
    worth: Annotated[bool, typer.Option("--worth", help="what the pairs are worth, as `flowpairs worth` says")] = False,
) -> None:
    """Write one HTML page that compares training runs and shows the pairs they were trained on.

    The page contains its pictures: it can be sent by mail, opened without a network, or printed. Runs that differ by
    their seed alone are taken together, with error bars.

    Example: `flowpairs report out/pairs-sinkhorn out/run-sinkhorn out/run-independent --output report.html`
    """
    from flowpairs.pipeline.base.environment import require
    from flowpairs.pipeline.base.errors import InputError
    from flowpairs.pipeline.base.paths import as_path
    from flowpairs.pipeline.base.printing import print_line
    from flowpairs.pipeline.base.progress import working

    require("flowpairs report", "jinja2", "matplotlib")
    from flowpairs.training.report.page import write_pages, write_report

    if pages is not None and output is not None:
        raise InputError(f"--pages {str(pages)!r}: and --output; give one of the two")
    paths = [as_path(directory) for directory in directories]
    with working(f"report: reading and drawing {', '.join(directories)}"):
        page = write_report(paths, output, worth=worth) if pages is None else write_pages(paths, pages, worth=worth)
    print_line(f"report: {page}")


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    run_command(report)
