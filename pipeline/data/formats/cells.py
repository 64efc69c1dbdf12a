"""Single cells: .h5ad files of anndata; X or a layer, dense or sparse, or an embedding of obsm, and columns of obs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.extras import require
from flowpairs.pipeline.data.formats.reader import DEFAULT, Chunk, Reader
from flowpairs.pipeline.data.schema import measures

MATRIX = "X"


class CellReader(Reader):
    """One .h5ad file; `data.column` is X, the default, obsm/NAME or layers/NAME, the other columns are of obs."""

    whole_labels = True

    def find_columns(self, files: Sequence[str]) -> tuple[str, ...]:
        """Check the names; X where none is given."""
        name = MATRIX if self.config.column == DEFAULT else self.config.column
        for file in files:
            with self._h5ad(file) as cells:
                held = [one for one in (MATRIX,) if one in cells]
                held += [f"{group}/{one}" for group in ("obsm", "layers") for one in cells.get(group, ())]
                if name not in held and f"obsm/{name}" in held:
                    name = f"obsm/{name}"
                if name not in held:
                    raise InputError(
                        f"data.column={self.config.column!r}: no such matrix in {file}; it has "
                        f"{', '.join(held) or 'none'}"
                    )
                obs = cells["obs"]
                columns = list(obs.attrs.get("column-order", obs))
                for key, column in self._sides().items():
                    if column not in obs:
                        raise InputError(
                            f"data.{key}={column!r}: no such column of obs in {file}; it has {', '.join(columns)}"
                        )
        return (name,)

    def count(self, file: str) -> int:
        """Read the length of the matrix."""
        with self._h5ad(file) as cells:
            return int(self._matrix(cells).shape[0])

    def chunks(self, file: str, start: int, stop: int | None, rows: int) -> Iterator[Chunk]:
        """Yield rows of the matrix, sparse ones as dense."""
        with self._h5ad(file) as cells:
            matrix = self._matrix(cells)
            total = int(matrix.shape[0])
            side = {key: self._column(cells, name) for key, name in self._sides().items()}
            end = total if stop is None else min(stop, total)
            for first in range(start, end, rows):
                last = min(first + rows, end)
                block = matrix[first:last]
                x = np.asarray(block.toarray() if hasattr(block, "toarray") else block)
                parts = {key: column[first:last] for key, column in side.items()}
                label = parts.pop("label", None)
                columns = {
                    key: measures(np.asarray(column), len(x), f"data.{key}={getattr(self.config, key)!r}")
                    for key, column in parts.items()
                }
                yield Chunk(file, first, x, label, columns)

    def labels(self, file: str) -> Iterator[tuple[Any, int]]:
        """Yield the column of labels."""
        assert self.config.label is not None
        with self._h5ad(file) as cells:
            found = self._column(cells, self.config.label)
            yield found, len(found)

    def _sides(self) -> dict[str, str]:
        return {**({} if self.config.label is None else {"label": self.config.label}), **self.config.columns()}

    def _matrix(self, cells: Any) -> Any:
        import anndata.io
        import h5py

        stored = cells[self.columns[0]]
        if isinstance(stored, h5py.Dataset):
            return stored
        kind = stored.attrs.get("encoding-type", "")
        if kind in ("csr_matrix", "csc_matrix"):
            return anndata.io.sparse_dataset(stored)
        if kind == "dataframe":
            return anndata.io.read_elem(stored).to_numpy()
        raise InputError(f"data.column={self.columns[0]!r}: {kind or 'a group'}, no matrix; name another")

    def _column(self, cells: Any, name: str) -> Any:
        """Read a column of obs: numbers, or names of categories."""
        import anndata.io

        column = anndata.io.read_elem(cells[f"obs/{name}"])
        if hasattr(column, "categories"):
            column = column.astype(column.categories.dtype if not column.isna().any() else object)
        return np.asarray(column)

    @contextmanager
    def _h5ad(self, file: str) -> Iterator[Any]:
        require(f"data.path={self.config.path!r}", "anndata", "h5py")
        import h5py

        with self._faults(file, ".h5ad"), self._open(file) as opened, h5py.File(opened, "r") as cells:
            if "obs" not in cells:
                raise InputError(f"data.path={self.config.path!r}: {file} has no obs; write it with anndata")
            yield cells
