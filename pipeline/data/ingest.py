"""The two entries of a data set: `check_data` finds all that can be wrong before Ray starts, `read_data` reads it.

A single array is read by the driver, which opened it to check it; many files are read by Ray Data, or here without Ray.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float32

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import folder, npz, parquet, tars
from flowpairs.pipeline.data.discover import Location, locate
from flowpairs.pipeline.data.schema import class_ids, scale_into
from flowpairs.pipeline.data.spec import DataSpec, Target, data_fingerprint

SURVEYS = {
    "digits": npz.survey,
    "npz": npz.survey,
    "parquet": parquet.survey,
    "folder": folder.survey,
    "tars": tars.survey,
}
COLUMNS = "npz", "parquet"  # formats that have columns
DATASETS = {"parquet": parquet.dataset, "folder": folder.dataset, "tars": tars.dataset}
BATCHES = {
    "digits": npz.batches,
    "npz": npz.batches,
    "parquet": parquet.batches,
    "folder": folder.batches,
    "tars": tars.batches,
}


def check_data(config: DataConfig) -> DataSpec:
    """Check a data set without Ray: local files in full (of images the headers), remote ones by their first rows.

    Args:
        config: `data:` of a configuration. `flowpairs.pipeline.data.discover` says how its path chooses a format,
            `flowpairs.pipeline.data.schema` how an array's rank is read.

    Raises:
        InputError: nothing at the path, unknown format, a missing column or field (with those there are), rows of
            different shape, NaN or Inf, dtypes that are no numbers, labels of the wrong length or type, no rows, flips
            of vectors.
    """
    location = locate(config.path)
    spec = SURVEYS[location.format](location, config)
    if config.columns() and location.format not in COLUMNS:
        key, name = next(iter(config.columns().items()))
        raise InputError(
            f"data.{key}={name!r}: columns are of .npz and parquet, not of {location.format}; write one of these"
        )
    if config.flips and spec.kind == "vector":
        raise InputError(f"data.flips=true: rows of shape {list(spec.shape)} are no images; leave data.flips out")
    return spec


def read_data(config: DataConfig, spec: DataSpec, *, by_ray: bool = True) -> Target:
    """Read a data set into one array, always in the same order.

    Rows are ordered by file path, then by their order in the file. Flips are not applied: they are ids of their own.

    Args:
        config: `data:` of a configuration.
        spec: result of `check_data`.
        by_ray: read many files by Ray Data, which the caller has started; else all in this process.

    Raises:
        InputError: faults that `check_data` refuses but could not see (pixels, remote rows), data that changed since,
            or data that a node of the cluster cannot reach.
    """
    location, where = locate(config.path), f"data.path={config.path!r}"
    if by_ray and location.format in DATASETS:
        x, columns = _by_ray(location, config, spec, where)
    else:
        x, columns = _here(location, config, spec, where)
    labels = class_ids(columns["label"], len(x), where) if "label" in columns else None
    num_classes = spec.num_classes if labels is None else max(spec.num_classes, int(labels.max()) + 1)
    weights, times = columns.get("weight"), columns.get("time")
    if weights is not None and (weights.min() < 0 or not weights.any()):
        raise InputError(f"data.weight={config.weight!r}: negative, or 0 throughout; give how much each datum counts")
    return Target(x, labels, num_classes, data_fingerprint(x, labels), weights, times)


def _here(
    location: Location, config: DataConfig, spec: DataSpec, where: str
) -> tuple[Float32[np.ndarray, "n *shape"], dict[str, np.ndarray]]:
    """Gather the batches that this process reads."""
    try:
        batches = BATCHES[location.format](location, config, spec)
        if spec.rows is not None:
            return _gather(batches, spec, spec.rows, where)
        found = list(batches)
        return _gather(found, spec, sum(len(batch["x"]) for batch in found), where)
    except FileNotFoundError as error:
        raise InputError(
            f"{where}: changed while it was read ({error}); run again when nothing writes to it"
        ) from error


def _by_ray(
    location: Location, config: DataConfig, spec: DataSpec, where: str
) -> tuple[Float32[np.ndarray, "n *shape"], dict[str, np.ndarray]]:
    """Gather the batches that Ray Data reads and decodes on all nodes."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.use_datasource_v2 = False  # it packs row groups by size and so loses their order
    context.raise_original_map_exception = True  # for `_refusal`
    context.enable_progress_bars = False
    with DataContext.current(context), _quiet():
        try:
            dataset, rows = DATASETS[location.format](location, config, spec), spec.rows
            if rows is None:
                dataset = dataset.materialize()
                rows = dataset.count()
            return _gather(dataset.iter_batches(batch_size=None, batch_format="numpy"), spec, rows, where)
        except Exception as error:
            if (refusal := _refusal(error, config)) is None:
                raise
            raise refusal from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's plans and worker tracebacks off the console; its log file has them, and failures are raised."""
    consoles = [(h, h.level) for h in logging.getLogger("ray.data").handlers if isinstance(h, logging.StreamHandler)]
    for handler, _ in consoles:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in consoles:
            handler.setLevel(level)


def _gather(
    batches: Iterable[dict[str, np.ndarray]], spec: DataSpec, rows: int, where: str
) -> tuple[Float32[np.ndarray, "n *shape"], dict[str, np.ndarray]]:
    """Gather ordered uniform batches, scaled, in one array that is allocated once; and the columns that go with it."""
    x = np.empty((rows, *spec.shape), np.float32)
    columns: dict[str, np.ndarray] = {}
    filled = 0
    for batch in batches:
        block = batch["x"]
        end = filled + len(block)
        if block.shape[1:] != spec.shape or end > rows:
            raise InputError(f"{where}: changed while it was read; run again when nothing writes to it")
        scale_into(x[filled:end], block)
        for name in batch.keys() - {"x"}:
            column = columns.setdefault(name, np.empty(rows, batch[name].dtype))
            column[filled:end] = batch[name]
        filled = end
    if filled != rows or rows == 0:
        raise InputError(f"{where}: {filled} rows instead of {rows}; run again when nothing writes to it")
    return x, columns


def _refusal(error: BaseException, config: DataConfig) -> InputError | None:
    """Find the user's mistake inside an exception that Ray passed on from a worker; None where there is none."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        cause = queue.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        if type(cause) is InputError:
            return cause
        if isinstance(cause, FileNotFoundError):
            return InputError(
                f"data.path={config.path!r}: a node of the cluster cannot see it ({cause}); "
                "put the data on storage that every node mounts, or give a URL"
            )
        queue += [cause.__cause__, cause.__context__, getattr(cause, "cause", None)]
    return None
