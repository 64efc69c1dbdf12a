"""Noise by counter: the right distribution, the right words, and the same bits whichever way it is asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.noise import Stream


def test_a_row_depends_only_on_its_number() -> None:
    whole = noise.gaussian(7, 0, 5_000, 20)
    for first, rows in [(0, 1), (13, 1), (4_999, 1), (100, 3_000)]:
        np.testing.assert_array_equal(noise.gaussian(7, first, rows, 20), whole[first : first + rows])


@given(first=st.integers(0, 2**40), rows=st.integers(1, 50), dim=st.integers(1, 70), cut=st.integers(0, 50))
def test_any_split_gives_the_same_bits(first: int, rows: int, dim: int, cut: int) -> None:
    cut = min(cut, rows)
    parts = [noise.gaussian(3, first, cut, dim), noise.gaussian(3, first + cut, rows - cut, dim)]
    np.testing.assert_array_equal(np.concatenate(parts), noise.gaussian(3, first, rows, dim))


def test_matches_box_muller_in_float64() -> None:
    """The float32 polynomials against numpy's libm in double precision, word by word."""
    width, rows = 2, 20_000
    raw = noise.words(5, Stream.NOISE, 0, rows * width).view("<u4").reshape(rows, 2, 4 * width)
    radius = np.sqrt(-2 * np.log((raw[:, 0].astype(np.float64) + 0.5) * 2.0**-32))
    got = noise.gaussian(5, 0, rows, 16).reshape(rows, 2, 8).astype(np.float64)
    np.testing.assert_allclose(np.hypot(got[:, 0], got[:, 1]), radius, rtol=5e-7, atol=5e-5)  # u is rounded near 1
    y = (raw[:, 1] << np.uint32(2)).view(np.int32) * (np.pi / 4 * 2.0**-31)
    sign = np.where(raw[:, 1] >> 31, -1.0, 1.0)
    swap = (raw[:, 1] >> 30) & 1
    direction = np.where(swap, np.sin(y), np.cos(y)) * sign
    np.testing.assert_allclose(got[:, 0], radius * direction, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("dim", [1, 3, 64])
def test_is_standard_gaussian(dim: int) -> None:
    x = noise.gaussian(11, 10**12, 400_000 // dim, dim)
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-3
    assert abs((x.astype(np.float64) ** 4).mean() - 3) < 0.1


def test_columns_rows_and_streams_are_uncorrelated() -> None:
    x = noise.gaussian(1, 0, 20_000, 64).astype(np.float64)
    correlation = np.corrcoef(x.T) - np.eye(64)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)
    assert abs(np.mean(x[1:] * x[:-1])) < 5 / np.sqrt(x.size)
    assert not np.array_equal(noise.words(1, Stream.NOISE, 0, 1), noise.words(1, Stream.DRAW, 0, 1))


def test_known_bits() -> None:
    """A golden row: a store made today must be readable by every later version."""
    row = noise.gaussian(0, 0, 1, 4)[0]
    assert row.view(np.uint32).tolist() == [1071394186, 1074934858, 1063911695, 3217445992]


def test_uniforms_are_addressable_and_uniform() -> None:
    u = noise.uniforms(2, Stream.DRAW, 0, 50_000)
    np.testing.assert_array_equal(noise.uniforms(2, Stream.DRAW, 123, 10), u[123:133])
    assert (u >= 0).all()
    assert (u < 1).all()
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_permutations_are_permutations_and_differ() -> None:
    a, b = (noise.permutation(4, Stream.EPOCH, 1_001, high=epoch) for epoch in (0, 1))
    np.testing.assert_array_equal(np.sort(a), np.arange(1_001))
    assert not np.array_equal(a, b)


def test_known_orders() -> None:
    """Golden numbers: a job that began with an earlier version must go on with the same rows."""
    assert noise.permutation(7, Stream.EPOCH, 10).tolist() == [3, 9, 1, 6, 2, 5, 4, 8, 0, 7]
    assert [noise.below(5, Stream.CUT, 20, high=epoch) for epoch in range(8)] == [0, 16, 14, 8, 0, 19, 3, 0]
    assert noise.below(5, Stream.CUT, 1) == 0


def test_an_order_is_that_of_its_words_wherever_it_begins() -> None:
    raw = noise.words(9, Stream.WINDOWS, 0, 10, high=3)
    for first, size in [(0, 1), (0, 40), (3, 1), (5, 22), (8, 12), (39, 1)]:
        found = noise.permutation(9, Stream.WINDOWS, size, first=first, high=3)
        assert found.tolist() == sorted(range(size), key=lambda i, first=first: raw[first + i])


def test_integers_below_a_bound_are_uniform() -> None:
    counts = np.bincount([noise.below(1, Stream.CUT, 6, high=epoch) for epoch in range(6_000)], minlength=6)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3
