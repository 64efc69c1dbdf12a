"""Tables of pairs made elsewhere (`coupling.method: imported`): which datum goes with which noise, one pair per row.

Columns, in .npz or parquet: `source_row` (a row of the seed's noise) with `data_id`; or `x0` itself, with `data_id` or
without it for the data in their order. The optional column `weight` holds the weight of each pair's error in training.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import load_npz
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.blocks import noise


@dataclass(frozen=True)
class PairTable:
    """Pairs by their origin; exactly one of `rows`, `x0` and `source_ids` is given.

    Attributes:
        data_ids: data ids of x1.
        rows: global source rows of the noise.
        x0: the source rows themselves.
        weights: weights of the pairs in training.
        source_ids: data ids of x0, where the source is a data set.
    """

    data_ids: Int64[np.ndarray, " P"]
    rows: Int64[np.ndarray, " P"] | None
    x0: Float32[np.ndarray, "P ..."] | None
    weights: Float32[np.ndarray, " P"] | None = None
    source_ids: Int64[np.ndarray, " P"] | None = None

    def __getitem__(self, part: slice) -> "PairTable":
        columns = (self.rows, self.x0, self.weights, self.source_ids)
        return PairTable(self.data_ids[part], *(None if column is None else column[part] for column in columns))

    def side(self, seed: int, shape: tuple[int, ...]) -> Float32[np.ndarray, "P ..."]:
        """Compute x0 of every pair; noise is generated from the pair's row."""
        if self.x0 is not None:
            return self.x0
        assert self.rows is not None
        return noise.gaussian_rows(seed, self.rows, int(np.prod(shape))).reshape(-1, *shape)

    def fingerprint(self) -> str:
        """Compute the sha256 of the columns, in hex."""
        digest = hashlib.sha256(np.ascontiguousarray(self.data_ids, "<i8").data)
        for column, dtype in ((self.rows, "<i8"), (self.x0, "<f4"), (self.weights, "<f4")):
            if column is not None:
                digest.update(np.ascontiguousarray(column, dtype).data)
        return digest.hexdigest()


def read_table(path: str, shape: tuple[int, ...]) -> PairTable:
    """Read a table of pairs.

    Args:
        path: .npz or parquet, a local file or an fsspec URL.
        shape: shape of one datum.

    Raises:
        InputError: no such file or no such columns, columns of other types or lengths, NaN or Inf, negative numbers,
            weights that are all 0, or source rows beyond the generator's.
    """
    where = f"coupling.table={path!r}"
    columns = _columns(path, where)
    if ("source_row" in columns) == ("x0" in columns):
        found = ", ".join(sorted(columns)) or "none"
        raise InputError(f"{where}: needs either a column source_row or a column x0; of those known it has {found}")
    if "source_row" in columns:
        if "data_id" not in columns:
            raise InputError(f"{where}: no column data_id; a source_row needs the datum that it meets")
        ids, rows = _whole_numbers(columns, "data_id", where), _whole_numbers(columns, "source_row", where)
        if len(ids) != len(rows):
            raise InputError(f"{where}: {len(ids)} data_id but {len(rows)} source_row; give one of each a pair")
        if rows.max() >= noise.ROWS:
            raise InputError(f"{where}: source_row {rows.max()} is beyond the {noise.ROWS} of a seed; number lower")
        return PairTable(ids, rows, None, _weights(columns, len(ids), where))
    stored = columns["x0"]
    if stored.dtype.kind not in "iuf" or stored.ndim < 2 or stored[:1].size != np.prod(shape):
        raise InputError(
            f"{where}: x0 is {list(stored.shape)} of {stored.dtype}; the data need numbers of {list(shape)} a pair"
        )
    with np.errstate(over="ignore"):
        x0 = np.ascontiguousarray(stored, np.float32).reshape(len(stored), *shape)
    ids = _whole_numbers(columns, "data_id", where) if "data_id" in columns else np.arange(len(x0))
    if len(ids) != len(x0):
        raise InputError(f"{where}: {len(ids)} data_id but {len(x0)} x0; give one of each a pair")
    if not np.isfinite(x0).all():
        raise InputError(f"{where}: x0 has NaN or Inf (as float32); remove those pairs")
    return PairTable(ids, None, x0, _weights(columns, len(ids), where))


def check_table(table: PairTable, where: str, ids: int, pairs: int, payload: str) -> None:
    """Check that a table fits its job.

    Raises:
        InputError: data ids beyond the data, more pairs wanted than there are, or x0 in a payload that leaves it out.
    """
    if table.data_ids.max() >= ids:
        raise InputError(f"{where}: data_id {table.data_ids.max()} is beyond the {ids} data ids; mend the table")
    if pairs > len(table.data_ids):
        raise InputError(f"output.pairs={pairs}: {where} has {len(table.data_ids)}; give that many or fewer")
    if table.x0 is not None and payload != "full":
        raise InputError(f"output.payload={payload!r}: x0 of {where} has no seed to come back from; give full")


def imported_report(x0: Float32[np.ndarray, "n k"], x1: Float32[np.ndarray, "n k"], m: int) -> dict[str, Any]:
    """Build a report like `flowpairs.pipeline.ot.BlockReport`: costs of the pairs as they are, null for the rest.

    Args:
        x0: source features.
        x1: target features of the same pairs.
        m: number of distinct data among them.
    """
    start = time.perf_counter()
    spread = sum(float(np.einsum("ij,ij->", x, x, dtype=np.float64)) for x in (x0, x1)) / len(x0)
    coupled = float(np.einsum("ij,ij->", x0, x1, dtype=np.float64)) / len(x0)
    independent = float(x0.mean(0, dtype=np.float64) @ x1.mean(0, dtype=np.float64))
    unknown = dict.fromkeys(("eps", "rel_eps", "sharpness", "partners", "source_error", "target_error", "plan_error"))
    return {
        "method": "imported",
        "n": len(x0),
        "m": m,
        **unknown,
        "cost_independent": spread - 2 * independent,
        "cost_coupled": spread - 2 * coupled,
        "passes": 0,
        "converged": True,
        "seconds": time.perf_counter() - start,
    }


def _columns(path: str, where: str) -> dict[str, np.ndarray]:
    """Read those columns of a table that a file has, by name."""
    columns = ("data_id", "source_row", "x0", "weight")
    suffix, file_path = PurePosixPath(path).suffix.lower(), as_path(path, "coupling.table")
    if suffix not in (".npz", ".parquet"):
        raise InputError(f"{where}: not a .npz or .parquet file; write the table as one of the two")
    try:
        with file_path.open("rb") as file:
            if suffix == ".npz":
                return {name: values for name, values in load_npz(file).items() if name in columns}
            return _parquet_columns(file, columns, where)
    except InputError:
        raise
    except Exception as error:  # filesystems, zip and parquet readers raise a dozen kinds of exceptions
        raise InputError(f"{where}: cannot be read ({error}); check the path and the file") from error


def _parquet_columns(file: Any, columns: tuple[str, ...], where: str) -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from flowpairs.pipeline.data.columns import numbers

    table = pq.read_table(file)
    out = {}
    for name in columns:
        if name in table.column_names:
            scalar = name == "weight" or pa.types.is_integer(table.schema.field(name).type)
            if scalar and table.column(name).null_count:
                raise InputError(f"{where}: null rows in {name!r}; remove them")
            out[name] = table.column(name).to_numpy() if scalar else numbers(table, [name], where)
    return out


def _whole_numbers(columns: dict[str, np.ndarray], name: str, where: str) -> Int64[np.ndarray, " P"]:
    values = columns[name]
    if values.dtype.kind not in "iu" or values.ndim != 1 or not len(values):
        raise InputError(f"{where}: {name} is {list(values.shape)} of {values.dtype}; give one integer a pair")
    if values.min() < 0 or values.max() >= 2**63:
        raise InputError(f"{where}: {name} goes from {values.min()} to {values.max()}; number from 0")
    return values.astype(np.int64)


def _weights(columns: dict[str, np.ndarray], pairs: int, where: str) -> Float32[np.ndarray, " P"] | None:
    if "weight" not in columns:
        return None
    stored = columns["weight"]
    if stored.dtype.kind not in "iuf" or stored.shape != (pairs,):
        raise InputError(f"{where}: weight is {list(stored.shape)} of {stored.dtype}; give one number a pair")
    with np.errstate(over="ignore"):
        weights = stored.astype(np.float32)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise InputError(f"{where}: weight must be finite, not negative and not 0 throughout; mend the table")
    return weights
