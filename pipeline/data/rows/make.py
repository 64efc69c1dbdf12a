"""A data set -> rows: a small one in this process's memory, a larger one as a row set on disk, by tasks.

Either way the rows, their parts and their fingerprint are the same. A task decodes a piece once and writes it in the
dtype in which it came. A row that cannot be read is refused together with all others, or left out where the config
says so; ids then count what is left.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from flowpairs.pipeline import data
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.base.progress import progress, remaining
from flowpairs.pipeline.base.threads import cores
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import Bad, DataSpec, Piece
from flowpairs.pipeline.data.discover import locate
from flowpairs.pipeline.data.rows import finished_parts, row_set
from flowpairs.pipeline.data.rows.finished_parts import FinishedPart
from flowpairs.pipeline.data.rows.row_set import Manifest
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.data.rows.stage import run_tasks
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.data.schema import kept

RUNS = 16  # stretches of consecutive rows that a sample consists of


def is_small(spec: DataSpec) -> bool:
    """Return whether a data set is one part, which is read into memory, or a row set, which is used in place."""
    if spec.format == "rows":
        return True
    return spec.rows is not None and spec.rows <= row_set.rows_per_part(spec.shape, spec.dtype)


def read_small(config: DataConfig, spec: DataSpec) -> Target:
    """Read a small data set into memory, or open a row set in place.

    Raises:
        InputError: rows that cannot be read, or a data set that changes while it is read.
    """
    if spec.format == "rows":
        return row_set.open_target(as_path(config.path))
    bad: list[Bad] = []
    x, columns = _read(config, spec, _pieces(config, spec, _counts(config, spec, by_ray=False), _most(spec)), bad)
    _refuse(config, bad)
    _check_count(config, spec, len(x) + len(bad))
    return target_of(config, spec, x, columns, len(bad))


def count_data(config: DataConfig, spec: DataSpec) -> int:
    """Count the rows of a data set that does not say how many it has."""
    return sum(_counts(config, spec, by_ray=False) or [spec.rows or 0])


def sample(config: DataConfig, spec: DataSpec, count: int) -> Target:
    """Read about `count` rows of a large data set into memory, in evenly spaced runs."""
    if spec.format == "rows":
        whole = row_set.open_target(as_path(config.path))
        ids = np.linspace(0, len(whole) - 1, min(count, len(whole))).astype(np.int64)
        return target_of(config, spec, whole.rows.take(ids), {n: c[ids] for n, c in whole.columns().items()})
    counts = _counts(config, spec, by_ray=False)
    total = spec.rows if counts is None else sum(counts)
    assert total is not None, "rows that are not known are counted"
    runs = max(1, min(RUNS, total // max(1, count)))
    per_run = max(1, count // runs)
    pieces, bad = _pieces(config, spec, counts, per_run), list[Bad]()
    chosen = [min(number * (total // runs) // per_run, len(pieces) - 1) for number in range(runs)]
    x, columns = _read(config, spec, [pieces[number] for number in chosen], bad)
    return target_of(config, spec, x, columns, len(bad))


def _pieces(config: DataConfig, spec: DataSpec, counts: Sequence[int] | None, most: int) -> list[Piece]:
    """List the pieces of a data set that one process reads."""
    return [piece for group in data.list_pieces(config, spec, counts, most) for piece in group]


def _read(
    config: DataConfig, spec: DataSpec, pieces: Sequence[Piece], bad: list[Bad]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read pieces into memory: rows and columns."""
    rows, columns = [np.empty((0, *spec.shape), spec.dtype)], dict[str, list[np.ndarray]]()
    for piece in pieces:
        for batch in data.read_piece(config, spec, piece, bad, threads=cores()):
            rows.append(batch["x"])
            for name in batch.keys() - {"x"}:
                columns.setdefault(name, []).append(batch[name])
    return np.concatenate(rows), {name: np.concatenate(values) for name, values in columns.items()}


def target_of(
    config: DataConfig, spec: DataSpec, x: np.ndarray, columns: dict[str, np.ndarray], left_out: int = 0
) -> Target:
    """Make a data set of rows in memory, with the fingerprint that it has on disk."""
    if not len(x):
        raise InputError(f"data.path={config.path!r}: no rows; give data with at least one")
    labels, weights, times, growth = (columns.get(name) for name in row_set.COLUMNS)
    _check_columns(config, weights, growth)
    step = row_set.rows_per_part(x.shape[1:], str(x.dtype))
    counts = [min(step, len(x) - start) for start in range(0, len(x), step)]
    rows = Rows([x[start : start + step] for start in range(0, len(x), step)], counts, x.shape[1:], kept(x.dtype))
    return Target(
        rows=rows,
        labels=labels,
        num_classes=_classes(spec, labels),
        fingerprint=row_set.fingerprint_of(x, columns),
        weights=weights,
        times=times,
        growth=growth,
        class_names=spec.class_names,
        kind=spec.kind,
        left_out=left_out,
    )


def save_target(target: Target, directory: AnyPath) -> Target:
    """Write a data set as a row set, and open it; a whole set of the same data is left as it is.

    The files of a data set that is a row set elsewhere are linked or copied.
    """
    if target.directory == directory:
        return target
    if not row_set.lost_files(directory) and row_set.read_manifest(directory).fingerprint == target.fingerprint:
        return row_set.open_target(directory)
    row_set.clear(directory)
    if target.directory is not None:
        row_set.copy_set(target.directory, directory)
        return row_set.open_target(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files = [
        row_set.write_part(directory / row_set.part_name(number), part) for number, part in enumerate(target.rows.parts)
    ]
    columns = [row_set.write_part(directory / f"{name}.npy", values) for name, values in target.columns().items()]
    row_set.write_manifest(directory, _manifest(target, files, columns))
    return row_set.open_target(directory)


def make_target(
    config: DataConfig, spec: DataSpec, directory: AnyPath, *, by_ray: bool, final: bool, named: str = "rows"
) -> Target:
    """Make the row set of a large data set, or complete it, and open it.

    Args:
        config: `data:` of a configuration.
        spec: result of `check_data`.
        directory: directory of the set, in one that the caller owns.
        by_ray: decode by Ray Data's tasks on all nodes, which have to reach the data and the directory.
        final: whether pairs refer to the set that is there, so that only the same data may take its part.
        named: what is made, for the progress.

    Raises:
        InputError: rows that cannot be read, or other data than those that pairs refer to.
        JobError: a directory that cannot be written.
    """
    own = _identity(config, spec)
    if not row_set.lost_files(directory):
        if row_set.read_identity(directory) == own:
            return row_set.open_target(directory)
        if final:
            again = make_target(config, spec, directory / "again", by_ray=by_ray, final=False, named=named)
            same = again.fingerprint == row_set.read_manifest(directory).fingerprint
            row_set.clear(directory / "again")
            if isinstance(directory, Path):
                (directory / "again").rmdir()
            if not same:
                raise InputError(
                    f"data.path={config.path!r}: not the data of the pairs beside {directory}; give another "
                    "output.dir or the same data"
                )
            row_set.write_identity(directory, own)
            return row_set.open_target(directory)
    if row_set.read_identity(directory) != own:
        row_set.clear(directory)
    directory.mkdir(parents=True, exist_ok=True)
    row_set.write_identity(directory, own)
    groups, number = list[_Group](), 0
    for group in data.list_pieces(config, spec, _counts(config, spec, by_ray=by_ray), _most(spec)):
        groups.append(_Group(number, tuple(group)))
        number += len(group)
    work, done, began = partial(_make_group, directory, config, spec, own), list[FinishedPart](), time.monotonic()
    with progress(f"reading {named}", number) as show:
        for finished in run_tasks(work, groups, by_ray=by_ray):
            done += finished
            left = remaining(float(len(done)), float(number), time.monotonic() - began)
            show(len(done), f"{len(done)}/{number} parts  {left} left")
    done.sort(key=lambda each: each.number)
    bad = [each for finished in done for each in finished.bad]
    _refuse(config, bad)
    _check_count(config, spec, len(bad) + sum(each.part.rows for each in done if each.part is not None))
    files = [each.part for each in done if each.part is not None]
    if not files:
        raise InputError(f"data.path={config.path!r}: no rows; give data with at least one")
    columns = finished_parts.merge_columns(directory, done)
    _check_columns(config, columns.get("weight"), columns.get("growth"))
    described = [row_set.write_part(directory / f"{name}.npy", values) for name, values in columns.items()]
    rows = Rows([directory / part.name for part in files], [part.rows for part in files], spec.shape, spec.dtype)
    classes = _classes(spec, columns.get("label"))
    whole = Target(rows, None, classes, "", class_names=spec.class_names, kind=spec.kind, left_out=len(bad))
    row_set.write_manifest(directory, _manifest(whole, files, described))
    finished_parts.remove_sidecars(directory, done)
    return row_set.open_target(directory)


def _identity(config: DataConfig, spec: DataSpec) -> str:
    """Hash what a row set is made from: the configuration that says how, and the names and sizes of all files."""
    tree = config.model_dump(mode="json", exclude={"flips", "fingerprint", "columns_fingerprint", "leave_out"})
    found = locate(config)
    named = [tree, list(spec.shape), str(spec.dtype), row_set.FORMAT_VERSION, found.files, found.sizes]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


@dataclass(frozen=True)
class _Group:
    """Pieces that one task reads, and the number of the first of them."""

    first: int
    pieces: tuple[Piece, ...]


def _make_group(directory: AnyPath, config: DataConfig, spec: DataSpec, own: str, group: _Group) -> list[FinishedPart]:
    """Make the parts of some pieces; this is a task."""
    return [
        _make_part(directory, config, spec, own, number, piece)
        for number, piece in enumerate(group.pieces, group.first)
    ]


def _make_part(
    directory: AnyPath, config: DataConfig, spec: DataSpec, own: str, number: int, piece: Piece
) -> FinishedPart:
    """Decode one piece and write it, unless that is done."""
    key = hashlib.sha256(f"{own} {number}".encode()).hexdigest()
    if (found := finished_parts.find_part(directory, number, key)) is not None:
        return found
    bad: list[Bad] = []
    x, filled = np.empty((sum(file.stop - file.start for file in piece.files), *spec.shape), spec.dtype), 0
    columns: dict[str, list[np.ndarray]] = {}
    for batch in data.read_piece(config, spec, piece, bad):
        stop = filled + len(batch["x"])
        if stop > len(x):
            raise InputError(
                f"data.path={config.path!r}: changed while it was read; run again when nothing writes to it"
            )
        x[filled:stop] = batch["x"]
        filled = stop
        for name in batch.keys() - {"x"}:
            columns.setdefault(name, []).append(batch[name])
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    return finished_parts.write_rows(directory, number, key, x[:filled], joined, bad)


def _counts(config: DataConfig, spec: DataSpec, *, by_ray: bool) -> Sequence[int] | None:
    """Count the rows of every file by tasks; None where headers or footers say them, which pieces then ask."""
    if spec.rows is not None:
        return None
    counted = run_tasks(partial(_count, config, spec), list(enumerate(data.files_of(config))), by_ray=by_ray)
    return [count for _, count in sorted(counted)]


def _count(config: DataConfig, spec: DataSpec, numbered: tuple[int, str]) -> tuple[int, int]:
    """Count the rows of a numbered file; this is a task."""
    number, file = numbered
    return number, data.count_rows(config, spec, file)


def _refuse(config: DataConfig, bad: Sequence[Bad]) -> None:
    """Refuse rows that cannot be read, all at once, unless they are to be left out."""
    if bad and config.on_bad == "refuse":
        raise data.refusal(list(bad), config)


def _check_count(config: DataConfig, spec: DataSpec, found: int) -> None:
    """Refuse a data set that has other rows than when it was checked."""
    if spec.rows not in (None, found):
        raise InputError(
            f"data.path={config.path!r}: changed while it was read, {found:,} rows instead of {spec.rows:,}; run again "
            "when nothing writes to it"
        )


def _check_columns(config: DataConfig, weights: np.ndarray | None, growth: np.ndarray | None) -> None:
    if weights is not None and (weights.min() < 0 or not weights.any()):
        raise InputError(f"data.weight={config.weight!r}: negative, or 0 throughout; give how much each datum counts")
    if growth is not None and growth.min() <= 0:
        raise InputError(
            f"data.growth={config.growth!r}: {growth.min():g} among the rates; give positive ones, below 1 "
            "for data that become fewer"
        )


def _classes(spec: DataSpec, labels: np.ndarray | None) -> int:
    return spec.num_classes if labels is None else max(spec.num_classes, int(labels.max()) + 1)


def _most(spec: DataSpec) -> int:
    return row_set.rows_per_part(spec.shape, spec.dtype)


def _manifest(target: Target, files: Sequence[row_set.Part], columns: Sequence[row_set.Part]) -> Manifest:
    rows = target.rows
    return Manifest(
        rows=len(rows),
        shape=rows.shape,
        dtype=rows.dtype,
        scale=row_set.SCALES[rows.dtype],
        kind=target.kind,
        num_classes=target.num_classes,
        class_names=target.class_names,
        parts=tuple(files),
        columns=tuple(columns),
        fingerprint=row_set.fingerprint(rows.shape, rows.dtype, files, columns),
        left_out=target.left_out,
    )
