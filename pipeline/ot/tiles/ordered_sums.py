"""Sums whose order is fixed on every device, where torch's own on CUDA add in the order in which threads arrive.

On CUDA `index_add_` adds by atomics and cuSPARSE's default product of a CSR matrix promises no order. There, sums by
index go through `index_put_`, which sorts first, and products through `segment_reduce`, which sums each row by a tree.
On a CPU torch's product of a CSR matrix is MKL's, whose sum of a row depends on what other rows there are, hence on how
rows are shared out among threads and processes; scipy's is a loop over the row's entries, and as fast. Where scipy is
missing, which only a bare machine's trial of the GPU (benchmarks/gpu.py) allows, a CPU takes what CUDA takes.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor


def add_by_index(out: Float[Tensor, "k *rest"], index: Int[Tensor, " r"], values: Float[Tensor, "r *rest"]) -> Tensor:
    """Add each of `values` to the row of `out` that `index` names, in place, and return `out`."""
    if out.device.type == "cpu":
        return out.index_add_(0, index, values)
    return out.index_put_((index.long(),), values, accumulate=True)


def row_sums(starts: Int[Tensor, " starts"], terms: Float[Tensor, " k"]) -> Float[Tensor, " rows"]:
    """Sum the terms of each row, which are those from `starts[row]` to `starts[row + 1]`; 0 where there are none."""
    return torch.segment_reduce(terms, "sum", offsets=starts.long(), initial=0.0, unsafe=True)


def running_sums(values: Float[Tensor, " k"]) -> Float64[Tensor, " k"]:
    """Compute the running sums in float64, on the CPU: CUDA's scan of one long row adds in no fixed order."""
    return values.double().cpu().cumsum(0).to(values.device)


@cache
def scipys() -> Any:
    """Import scipy's sparse matrices, by rows and by columns; None where scipy is missing."""
    try:
        from scipy.sparse import csc_array, csr_array
    except ModuleNotFoundError:
        return None
    return csr_array, csc_array


class RowMatrix:
    """A sparse matrix whose entries are in the order of its rows.

    Args:
        starts: position of each row's first entry, and the end.
        columns: columns of the entries.
        values: of the entries, float64.
        shape: rows and columns.
    """

    def __init__(
        self,
        starts: Int[Tensor, " starts"],
        columns: Int[Tensor, " k"],
        values: Float[Tensor, " k"],
        shape: tuple[int, int],
    ) -> None:
        self.starts, self.columns, self.values = starts, columns, values
        self.csr = None
        if values.device.type == "cpu" and (kinds := scipys()) is not None:
            self.csr = kinds[0]((values.numpy(), columns.numpy(), starts.numpy()), shape)

    def __matmul__(self, vector: Float[Tensor, " columns"]) -> Shaped[Tensor, " rows"]:
        if self.csr is not None:
            return torch.from_numpy(self.csr @ vector.numpy())
        return row_sums(self.starts, vector[self.columns].mul_(self.values))


class TurnedMatrix:
    """The transpose of a sparse matrix whose entries are in the order of its rows, in which a column's are added, too.

    It is scipy's, for CPUs alone, and reads the entries where they lie.

    Args:
        starts: position of each row's first entry, and the end.
        columns: columns of the entries, int32.
        shape: rows and columns, of the matrix before it is turned.
    """

    def __init__(self, starts: Int[Tensor, " starts"], columns: Int[Tensor, " k"], shape: tuple[int, int]) -> None:
        self.pattern, self.shape = (columns.numpy(), starts.numpy()), (shape[1], shape[0])

    def fill(self, values: Float[Tensor, " k"]) -> None:
        """Set the values of the entries, float64, which are in the order of the matrix before it is turned."""
        self.filled = scipys()[1]((values.numpy(), *self.pattern), self.shape)

    def __matmul__(self, vector: Float[Tensor, " rows"]) -> Shaped[Tensor, " columns"]:
        return torch.from_numpy(self.filled @ vector.numpy())
