"""`read_data`: a data set in one array."""

import numpy as np

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.pieces import list_pieces, read_piece
from flowpairs.pipeline.data.schema import scale_into
from flowpairs.pipeline.data.spec import Bad, DataSpec, Target, data_fingerprint
from flowpairs.pipeline.data.uniform import refusal

PIECE_BYTES = 256 * 2**20


def read_data(config: DataConfig, spec: DataSpec, *, by_ray: bool = True) -> Target:
    """Read a data set into one array, always in the same order.

    Rows are ordered by file path, then by their order in the file. Flips are not applied: they are ids of their own.

    Args:
        config: `data:` of a configuration.
        spec: result of `check_data`.
        by_ray: without effect; all is read in this process.

    Raises:
        InputError: faults that `check_data` refuses but could not see (pixels, remote rows), data that changed since,
            or data that this machine cannot reach.
    """
    where = f"data.path={config.path!r}"
    size = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    groups = list_pieces(config, spec, None, max(1, PIECE_BYTES // size))
    pieces = [piece for group in groups for piece in group]
    rows = sum(piece.rows for piece in pieces)
    if spec.rows not in (None, rows):
        raise InputError(
            f"{where}: changed while it was read, {rows} rows instead of {spec.rows}; run again when nothing "
            "writes to it"
        )
    x, filled = np.empty((rows, *spec.shape), np.float32), 0
    columns: dict[str, list[np.ndarray]] = {}
    bad: list[Bad] = []
    for piece in pieces:
        for batch in read_piece(config, spec, piece, bad):
            end = filled + len(batch["x"])
            scale_into(x[filled:end], batch["x"])
            filled = end
            for name in batch.keys() - {"x"}:
                columns.setdefault(name, []).append(batch[name])
    if bad and (config.on_bad == "refuse" or not filled):
        raise refusal(bad, config)
    if not filled:
        raise InputError(f"{where}: no rows; give data with at least one")
    x = x[:filled]
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    labels, weights, times = joined.get("label"), joined.get("weight"), joined.get("time")
    num_classes = spec.num_classes if labels is None else max(spec.num_classes, int(labels.max()) + 1)
    if weights is not None and (weights.min() < 0 or not weights.any()):
        raise InputError(f"data.weight={config.weight!r}: negative, or 0 throughout; give how much each datum counts")
    return Target(x, labels, num_classes, data_fingerprint(x, labels), weights, times)
