"""The HTML pages: arrange what was read and drawn for the templates."""

import dataclasses
import re
from collections.abc import Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.training.metrics.worth import worth_of_stores, worth_table
from flowpairs.training.report import run_view, verdict
from flowpairs.training.report.drawing import theme
from flowpairs.training.report.seeds import Mean, RunGroup, group_runs
from flowpairs.training.report.store_view import store_view
from flowpairs.training.report.summaries.collect import collect
from flowpairs.training.report.summaries.runs import Run, differing_settings
from flowpairs.training.report.summaries.stores import StoreSummary

Links = Sequence[tuple[str, str]]  # (file name, what it shows)
Table = tuple[list[str], list[list[str]]]  # headings and rows


def write_report(directories: Sequence[AnyPath], output: AnyPath | None = None, *, worth: bool = False) -> AnyPath:
    """Write the report of pair stores and training runs as one self-contained HTML file.

    Args:
        directories: the pair stores and training runs, in the order in which they are shown.
        output: the file to write; None: report.html in the first directory.
        worth: whether to show what the pairs of the stores are worth (`flowpairs worth`), which takes longer.

    Returns:
        The path of the file.

    Raises:
        InputError: a directory is neither store nor run, a file in it cannot be read, or the output cannot be a file;
            with `worth`, stores that do not compare.
    """
    stores, runs = collect(directories)
    page = render(stores, runs, worth=_worth(stores) if worth else None)
    output = output or directories[0] / "report.html"
    if isinstance(output, Path) and (output.is_dir() or not output.parent.is_dir()):
        raise InputError(f"--output {str(output)!r}: not a file in an existing directory; give one, as in report.html")
    write_atomically(output, page.encode())
    return output


def write_pages(directories: Sequence[AnyPath], folder: Path, *, worth: bool = False) -> Path:
    """Write a page per pair store and per training run, and index.html, which compares runs and leads to the others.

    Args:
        directories: the pair stores and training runs, in the order in which they are shown.
        folder: the folder to write to; it is made if it does not exist, and pages in it are replaced.
        worth: as for `write_report`, on index.html.

    Returns:
        The path of index.html.

    Raises:
        InputError: as for `write_report`.
    """
    stores, runs = collect(directories)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--pages {str(folder)!r}: a file; give a folder, which may be new")
    parts: list[tuple[str, str, list[StoreSummary], list[Run]]] = []
    for number, store in enumerate(stores):
        parts.append((f"store-{number}-{_file_name(store.name)}.html", store.name, [store], []))
    for number, run in enumerate(runs):
        parts.append((f"run-{number}-{_file_name(run.name)}.html", run.name, [], [run]))
    pages = {name: render(of, those, [("index.html", "all")]) for name, _, of, those in parts}
    links = [(name, label) for name, label, _, _ in parts]
    pages["index.html"] = render(stores, runs, links, detailed=False, worth=_worth(stores) if worth else None)
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        write_atomically(folder / name, page.encode())
    return folder / "index.html"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)[-80:].strip("-.") or "page"


def _worth(stores: list[StoreSummary]) -> Table:
    """Estimate what the pairs of the stores are worth.

    Raises:
        InputError: there is no store, or they do not compare.
    """
    if not stores:
        raise InputError("--worth: no store among these directories; give the pair stores whose pairs are to be judged")
    found = worth_of_stores([store.path for store in stores])
    named = [dataclasses.replace(of, directory=store.name) for of, store in zip(found, stores, strict=True)]
    return worth_table(named)


def render(
    stores: list[StoreSummary],
    runs: list[Run],
    links: Links = (),
    *,
    detailed: bool = True,
    worth: Table | None = None,
) -> str:
    """Render the HTML of a page.

    Args:
        stores: the pair stores.
        runs: the training runs.
        links: other pages, as file names in the same folder.
        detailed: whether to show all there is of each store and run, rather than what compares them.
        worth: headings and rows of what the pairs are worth; None leaves it out.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": verdict.number, "shown": verdict.shown, "spread": verdict.spread, "mean": _mean}
    groups = group_runs(runs)
    table = verdict.scores(groups)
    context: dict[str, Any] = {
        "light": theme.variables(dark=False),
        "dark": theme.variables(dark=True),
        "swatches": [Markup(theme.swatch(index)) for index in range(len(groups))],
        "headline": verdict.headline(groups, table),
        "sentences": verdict.sentences(groups, table),
        "caveats": verdict.caveats(groups),
        "chance": verdict.chance(groups),
        "floor": verdict.floor(groups),
        "scores": table,
        "groups": groups,
        "runs": runs,
        "links": links,
        "stores": list(starmap(store_view, enumerate(stores))) if detailed else [],
        "curves": run_view.curves(groups),
        "samples": list(starmap(run_view.samples_view, enumerate(groups))) if detailed else [],
        "gallery": run_view.gallery(groups),
        "made": run_view.made_view(groups) if detailed else [],
        "differences": differing_settings(runs),
        "detailed": detailed,
        "worth": worth,
    }
    return environment.get_template("report.html.j2").render(context)


def _mean(group: RunGroup, field: str) -> Mean | None:
    """Compute the mean of a figure in train.json over a group."""
    return Mean.of([float(getattr(run.train, field)) for run in group.runs])
