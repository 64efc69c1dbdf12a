"""A row set as a data set of its own: `data.path` names the rows of a pair store, which are used as they are.

Nothing is decoded: a job links the files into its own store where both are on one disk, and copies them otherwise.
"""

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.spec import DataSpec


def set_directory(config: DataConfig) -> AnyPath | None:
    """Return the directory of the row set that `data.path` names; None where it names data of another kind."""
    if config.path == "digits" or any(sign in config.path for sign in "*?["):
        return None
    directory = as_path(config.path, "data.path")
    return directory if (directory / row_set.MANIFEST).is_file() else None


def check_set(config: DataConfig) -> DataSpec | None:
    """Find what a row set holds, as `flowpairs.pipeline.data.check_data` does for other data; None where it is none.

    Raises:
        InputError: a damaged set, or columns that the set has and the config does not name, or the other way round.
    """
    directory = set_directory(config)
    if directory is None:
        return None
    manifest = row_set.read_manifest(directory)
    if lost := row_set.lost_files(directory):
        raise InputError(f"data.path={config.path!r}: {', '.join(lost)} missing or cut short; make the rows again")
    for name in ("weight", "time", "growth"):
        given, there = getattr(config, name), manifest.column(name) is not None
        if (given is not None) != there or given not in (None, name):
            remedy = f"give data.{name}={name}" if there else f"remove data.{name}"
            have = f"have {name}s" if there else f"have no {name}s"
            raise InputError(f"data.{name}={given!r}: the rows at {config.path!r} {have}; {remedy}")
    if config.label is not None and manifest.column("label") is None:
        raise InputError(f"data.label={config.label!r}: the rows at {config.path!r} have no labels; remove it")
    if config.flips and manifest.kind == "vector":
        raise InputError(f"data.flips=true: rows of shape {list(manifest.shape)} are no images; leave data.flips out")
    return DataSpec(
        rows=manifest.rows,
        shape=manifest.shape,
        num_classes=manifest.num_classes,
        kind=manifest.kind,
        files=len(manifest.parts),
        dtype=manifest.dtype,
        class_names=manifest.class_names,
        format="rows",
    )
