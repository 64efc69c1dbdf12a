"""Reader of the pair stores and training runs in directories.

A pair store is a directory with index.json, a training run one with train.json. All other files are optional, since a
report is most useful while something is still missing: absent parts are None, and the page says so.
"""

from collections.abc import Sequence
from pathlib import Path

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.training.report.summaries.runs import Run, read_run
from flowpairs.training.report.summaries.stores import StoreSummary, read_store


def collect(directories: Sequence[AnyPath]) -> tuple[list[StoreSummary], list[Run]]:
    """Read every directory as a pair store, a training run, or both.

    Args:
        directories: the directories, in the order in which the page shows them; a repeated one is read once.

    Raises:
        InputError: no directory is given, one is neither store nor run, or a file in it cannot be read.
    """
    if not directories:
        raise InputError("report: no directory given; name at least one pair store or training run")
    paths = list(dict.fromkeys(directory.resolve() for directory in directories))
    stores, runs = [], []
    for path, name in zip(paths, short_names(paths), strict=True):
        is_store = (path / "index.json").is_file()
        is_run = isinstance(path, Path) and (path / "train.json").is_file()  # runs are never at URLs
        if not path.is_dir():
            raise InputError(f"report directory {str(path)!r}: no such directory; check the spelling")
        if not (is_store or is_run):
            raise InputError(
                f"report directory {str(path)!r}: neither index.json (a finished pair store) nor train.json "
                "(a training run) in it; name the directory that `flowpairs couple` or `flowpairs train` wrote"
            )
        if is_store:
            stores.append(read_store(path, name))
        if is_run:
            assert isinstance(path, Path)
            runs.append(read_run(path, name))
    return stores, runs


def short_names(paths: Sequence[AnyPath]) -> list[str]:
    """Find the shortest path endings, of equal depth, that distinguish the paths."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]
