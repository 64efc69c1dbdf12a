"""Samples as an .h5ad file of anndata, so that scanpy and its kin take them; written with h5py alone."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from flowpairs.pipeline.base.atomic import write_atomically

GROUPS = "layers", "obsm", "obsp", "uns", "varm", "varp"


def write_cells(
    path: Path,
    samples: Float32[np.ndarray, "n *shape"],
    starts: Float32[np.ndarray, "n *shape"] | None,
    labels: Int64[np.ndarray, " n"] | None,
) -> None:
    """Write samples as cells: X and obsm/X_flow are where the flow leads, obsm/X_start is where it starts.

    Args:
        path: the file.
        samples: the samples.
        starts: the points that the flow started from; None: noise, which is left out.
        labels: class ids, which become the column `label` of obs; None: none.
    """
    import h5py

    buffer = BytesIO()
    flat = samples.reshape(len(samples), -1)
    with h5py.File(buffer, "w") as file:
        _mark(file, "anndata", "0.1.0")
        _mark(file.create_dataset("X", data=flat), "array", "0.2.0")
        _frame(
            file, "obs", [f"cell-{number}" for number in range(len(flat))], {} if labels is None else {"label": labels}
        )
        _frame(file, "var", [f"coordinate-{number}" for number in range(flat.shape[1])], {})
        for name in GROUPS:
            _mark(file.create_group(name), "dict", "0.1.0")
        shown = {"X_flow": flat} | ({} if starts is None else {"X_start": starts.reshape(len(starts), -1)})
        for name, rows in shown.items():
            _mark(file["obsm"].create_dataset(name, data=rows), "array", "0.2.0")
    write_atomically(path, buffer.getvalue())


def _mark(item: Any, kind: str, version: str) -> None:
    """Say what an item is, as anndata's format does."""
    item.attrs["encoding-type"], item.attrs["encoding-version"] = kind, version


def _frame(file: Any, name: str, index: list[str], columns: dict[str, np.ndarray]) -> None:
    """Write a data frame with an index of texts and columns of numbers."""
    import h5py

    group = file.create_group(name)
    _mark(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs["column-order"] = np.array(list(columns), dtype=h5py.string_dtype())
    _mark(
        group.create_dataset("_index", data=np.array(index, dtype=object), dtype=h5py.string_dtype()),
        "string-array",
        "0.2.0",
    )
    for column, values in columns.items():
        _mark(group.create_dataset(column, data=values), "array", "0.2.0")
