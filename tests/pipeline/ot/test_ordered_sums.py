"""Sums in a fixed order: what CUDA takes, against scipy and plain loops. The operations themselves run on the CPU."""

import numpy as np
import torch
from scipy.sparse import csr_array, random_array, vstack

from flowpairs.pipeline.ot.tiles.ordered_sums import RowMatrix, TurnedMatrix, add_by_index, row_sums


def test_products_are_scipys_with_empty_rows_too() -> None:
    matrix = random_array((200, 90), density=0.02, format="csr", rng=np.random.default_rng(1), dtype=np.float64)
    assert (np.diff(matrix.indptr) == 0).any()
    starts, columns, values = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    vector = torch.from_numpy(np.random.default_rng(2).normal(size=90))
    wanted = torch.from_numpy(matrix @ vector.numpy())
    torch.testing.assert_close(row_sums(starts, values * vector[columns]), wanted, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(
        RowMatrix(starts, columns, values, matrix.shape) @ vector, wanted, rtol=1e-14, atol=1e-14
    )


def test_a_rows_product_does_not_depend_on_the_other_rows() -> None:
    """Sparse products of MKL choose their sums by the matrix as a whole: such rows differed in last bits."""
    rng = np.random.default_rng(4)
    few, many = (
        random_array((rows, 2000), density=share, format="csr", rng=rng) for rows, share in ((400, 0.001), (2000, 0.01))
    )
    vector = torch.from_numpy(rng.random(2000))

    def product(matrix: csr_array) -> torch.Tensor:
        parts = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
        return RowMatrix(*parts, matrix.shape) @ vector

    assert torch.equal(product(vstack([few, many], format="csr")), torch.cat([product(few), product(many)]))


def test_a_turned_matrix_adds_a_columns_entries_in_the_order_of_its_rows() -> None:
    """As a plain loop does, to the bit."""
    rng = np.random.default_rng(5)
    matrix = random_array((300, 40), density=0.05, format="csr", rng=rng, dtype=np.float64)
    vector = rng.normal(size=300) * 2.0 ** rng.integers(-30, 30, 300)
    wanted = np.zeros(40)
    for row in range(300):
        for k in range(matrix.indptr[row], matrix.indptr[row + 1]):
            wanted[matrix.indices[k]] += matrix.data[k] * vector[row]
    starts, columns, values = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    turned = TurnedMatrix(starts, columns, matrix.shape)
    for factor in (3.0, 1.0):  # filled again, it forgets
        turned.fill(values * factor)
    assert np.array_equal((turned @ torch.from_numpy(vector)).numpy(), wanted)


def test_no_entries_have_sums_of_zero() -> None:
    assert row_sums(torch.zeros(5, dtype=torch.int32), torch.zeros(0, dtype=torch.float64)).tolist() == [0.0] * 4


def test_sums_by_index_are_a_plain_loops_in_the_order_given() -> None:
    rng = np.random.default_rng(3)
    index, values = rng.integers(0, 7, 500), rng.normal(size=(500, 3)) * 2.0 ** rng.integers(-30, 30, (500, 1))
    wanted = np.zeros((7, 3))
    for row, value in zip(index, values, strict=True):
        wanted[row] += value
    ours = torch.from_numpy(index), torch.from_numpy(values)
    zero = torch.zeros(7, 3, dtype=torch.float64)
    assert np.array_equal(add_by_index(zero.clone(), *ours).numpy(), wanted)
    assert np.array_equal(zero.index_put_((ours[0],), ours[1], accumulate=True).numpy(), wanted)  # what CUDA takes
