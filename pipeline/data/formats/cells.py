"""Single cells: .h5ad files of anndata; X, a layer or an embedding, dense or sparse, and columns of obs.

The layout is read with h5py alone, since anndata and Ray Data ask for different versions of pandas.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from flowpairs.pipeline.base.environment import require
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.formats.reader import DEFAULT, Chunk, Reader
from flowpairs.pipeline.data.formats.stored_arrays import WHOLE
from flowpairs.pipeline.data.schema import measures

MATRIX = "X"
PATIENCE = 60  # seconds of processor time in which HDF5 has to read what a file says of itself


class CellReader(Reader):
    """One .h5ad file; `data.column` is X, the default, obsm/NAME or layers/NAME, the other columns are of obs."""

    whole_labels = True

    def find_columns(self, files: Sequence[str]) -> tuple[str, ...]:
        """Check the names; X where none is given."""
        self._refuse_endless(files)
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
                columns = [str(one) for one in cells["obs"].attrs.get("column-order", cells["obs"])]
                for key, column in self._sides().items():
                    if column not in columns:
                        raise InputError(
                            f"data.{key}={column!r}: no such column of obs in {file}; it has {', '.join(columns)}"
                        )
        return (name,)

    def count(self, file: str) -> int:
        """Read the length of the matrix."""
        with self._h5ad(file) as cells:
            return self._matrix(cells).shape[0]

    def chunks(self, file: str, start: int, stop: int | None, rows: int) -> Iterator[Chunk]:
        """Yield rows of the matrix, sparse ones as dense."""
        with self._h5ad(file) as cells:
            matrix = self._matrix(cells)
            total = matrix.shape[0]
            side = {key: self._column(cells, key, name, total) for key, name in self._sides().items()}
            end = total if stop is None else min(stop, total)
            for first in range(start, end, rows):
                last = min(first + rows, end)
                parts = {key: column[first:last] for key, column in side.items()}
                label = parts.pop("label", None)
                yield Chunk(file, first, np.asarray(matrix[first:last]), label, parts)

    def labels(self, file: str) -> Iterator[tuple[Any, int]]:
        """Yield the column of labels."""
        assert self.config.label is not None
        with self._h5ad(file) as cells:
            total = self._matrix(cells).shape[0]
            yield self._column(cells, "label", self.config.label, total), total

    def _refuse_endless(self, files: Sequence[str]) -> None:
        """Refuse files that HDF5 reads without an end, or that end its process; see hdf5_probe.py."""
        require(f"data.path={self.config.path!r}", "h5py")
        urls = [self.site.filesystem.unstrip_protocol(file) for file in files]
        program = str(Path(__file__).with_name("hdf5_probe.py"))
        command = [sys.executable, "-P", program, str(PATIENCE), json.dumps(list(self._sides().values())), *urls]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        if done.returncode < 0:
            file = files[int(done.stdout.split()[-1])] if done.stdout else files[0]
            endless = done.returncode == -signal.SIGXCPU
            how = "HDF5 reads it without an end" if endless else f"HDF5 dies of it by signal {-done.returncode}"
            raise InputError(f"data.path={self.config.path!r}: {file} is damaged, {how}; write it again")

    def _sides(self) -> dict[str, str]:
        return {**({} if self.config.label is None else {"label": self.config.label}), **self.config.columns()}

    def _matrix(self, cells: Any) -> Any:
        """Open the matrix: what has a shape and can be sliced by rows."""
        stored, name = cells[self.columns[0]], self.columns[0]
        if hasattr(stored, "dtype"):
            return stored
        kind = stored.attrs.get("encoding-type", "a group")
        if kind not in ("csr_matrix", "csc_matrix"):
            raise InputError(f"data.column={name!r}: {kind} is no matrix of numbers; name another")
        rows, width = (int(side) for side in stored.attrs["shape"])
        if kind == "csr_matrix" and len(stored["indptr"]) == rows + 1 and 0 < width < WHOLE // 8:
            return _Sparse(stored, rows, width)
        if kind == "csr_matrix" or stored["data"].size * 16 > WHOLE:
            raise InputError(
                f"data.column={name!r}: {kind} of {rows:,} x {width:,} cannot be read by rows; write it as csr_matrix"
            )
        import scipy.sparse

        parts = tuple(stored[part][:] for part in ("data", "indices", "indptr"))
        return _Turned(scipy.sparse.csc_matrix(parts, (rows, width)).tocsr())

    def _column(self, cells: Any, key: str, name: str, total: int) -> Any:
        """Read a column of obs: numbers, texts, or the names of categories, None where they are missing."""
        stored, where = cells["obs"][name], f"data.{key}={name!r}"
        if hasattr(stored, "dtype"):
            values = _values(stored, where)
        elif "codes" in stored:
            names = [*_values(stored["categories"], where), None]
            values = [names[code] for code in _values(stored["codes"], where).tolist()]
        elif "mask" in stored:
            pairs = zip(_values(stored["values"], where), stored["mask"][:], strict=True)
            values = [None if hidden else value for value, hidden in pairs]
        else:
            raise InputError(
                f"{where}: a column of {stored.attrs.get('encoding-type', 'groups')}; give numbers or names"
            )
        if len(values) != total:
            raise InputError(f"{where}: {len(values):,} values for {total:,} rows; write the file again with anndata")
        if key == "label":
            return values
        if isinstance(values, list):
            values = np.array([np.nan if value is None else value for value in values])
        return measures(values, total, where)

    @contextmanager
    def _h5ad(self, file: str) -> Iterator[Any]:
        require(f"data.path={self.config.path!r}", "h5py")
        import h5py

        with self._faults(file, ".h5ad"), self._open(file) as opened, h5py.File(opened, "r") as cells:
            if "obs" not in cells or not hasattr(cells["obs"], "keys"):
                raise InputError(f"data.path={self.config.path!r}: {file} has no table obs; write it with anndata")
            _refuse_foreign(cells)
            yield cells


def _refuse_foreign(cells: Any) -> None:
    """Refuse links to other files, and data sets that are stored in others."""
    import h5py

    def refuse(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(f"{name!r} is in another file")
        if isinstance(link, h5py.HardLink):
            found = cells[name]
            if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
                raise ValueError(f"{name!r} is in another file")

    cells.visititems_links(refuse)


class _Sparse:
    """A matrix of compressed rows in a file."""

    def __init__(self, stored: Any, rows: int, width: int) -> None:
        self.stored, self.shape = stored, (rows, width)

    def __getitem__(self, chosen: slice) -> Shaped[np.ndarray, "b d"]:
        import scipy.sparse

        starts = self.stored["indptr"][chosen.start : chosen.stop + 1].astype(np.int64)
        low, high = int(starts[0]), int(starts[-1])
        data, indices = self.stored["data"][low:high], self.stored["indices"][low:high]
        shape = (len(starts) - 1, self.shape[1])
        matrix = scipy.sparse.csr_matrix((data, indices, starts - low), shape)
        matrix.check_format(full_check=True)
        return matrix.toarray()


class _Turned:
    """A sparse matrix in memory."""

    def __init__(self, matrix: Any) -> None:
        self.matrix, self.shape = matrix, matrix.shape

    def __getitem__(self, chosen: slice) -> Shaped[np.ndarray, "b d"]:
        return self.matrix[chosen].toarray()


def _values(stored: Any, where: str) -> Any:
    """Read a whole column as numbers or text."""
    if len(stored.shape) != 1 or stored.size * max(8, stored.dtype.itemsize) > WHOLE:
        raise InputError(f"{where}: {list(stored.shape)} of {stored.dtype}; give one number or name a row")
    return list(stored.asstr()[:]) if stored.dtype.kind == "O" else stored[:]
