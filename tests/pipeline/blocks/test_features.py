"""Features against scikit-learn's PCA, and noise projected in chunks against noise projected at once."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks import features, noise
from flowpairs.pipeline.blocks.directions import RowSample, fit_features
from flowpairs.pipeline.blocks.feature_store import MAP, load_map, save_map
from flowpairs.pipeline.blocks.features import CentredRows, Features, compute_features
from flowpairs.pipeline.data.rows.rows import Rows


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return (load_digits().images / 8 - 1).astype(np.float32)[:, None]


def fitted_to(x: np.ndarray, pca: int | None, *, flips: bool = False) -> Features:
    return fit_features([RowSample(Rows.of(x), np.arange(len(x)), flips)], pca)


@pytest.mark.parametrize("flips", [False, True])
def test_directions_are_those_of_sklearn(digits: np.ndarray, flips: bool) -> None:
    fitted = fitted_to(digits, 10, flips=flips)
    rows = np.concatenate([digits, digits[..., ::-1]]) if flips else digits
    truth = PCA(10, svd_solver="full").fit(rows.reshape(len(rows), -1).astype(np.float64))
    got = compute_features(fitted, Rows.of(digits), flips=flips).whole()
    expected = truth.transform(rows.reshape(len(rows), -1).astype(np.float64))
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=2e-4)
    np.testing.assert_allclose(fitted.basis.T @ fitted.basis, np.eye(10), atol=1e-5)
    assert fitted.captured == pytest.approx(truth.explained_variance_ratio_.sum(), rel=1e-6)


@pytest.mark.parametrize("flips", [False, True])
def test_without_pca_features_are_the_centred_data(digits: np.ndarray, flips: bool) -> None:
    fitted = fitted_to(digits, None, flips=flips)
    both = np.concatenate([digits, digits[..., ::-1]]) if flips else digits
    flat = both.reshape(len(both), -1)
    rows = Rows.of(digits)
    computed = compute_features(fitted, rows, flips=flips).whole()
    np.testing.assert_allclose(computed, flat - flat.mean(0), atol=1e-5)
    asked = CentredRows(fitted, rows, flips)
    assert len(asked) == len(both)
    np.testing.assert_array_equal(asked.whole(), computed)
    ids = np.array([len(both) - 1, 0, 7])
    np.testing.assert_array_equal(asked.take(ids), computed[ids])
    np.testing.assert_array_equal(rows.read(np.arange(len(digits))), digits)  # which were not centred in place
    assert fitted.captured is None


def test_noise_features_are_the_projected_noise(digits: np.ndarray) -> None:
    fitted = fitted_to(digits, 7)
    assert fitted.basis is not None
    got = fitted.of_noise(3, 1_000, 9_000)
    np.testing.assert_allclose(got, noise.gaussian(3, 1_000, 9_000, 64) @ fitted.basis, atol=1e-5)
    np.testing.assert_allclose(np.cov(got.T), np.eye(7), atol=0.08)


def test_noise_features_do_not_depend_on_the_number_of_threads(digits: np.ndarray) -> None:
    """Two threads of some BLAS round a product of these shapes otherwise than one."""
    fitted = fitted_to(digits, 24)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(fitted.of_noise(0, 7, 1797))
    assert np.array_equal(*found)


def test_chunks_are_of_a_bounded_number_of_numbers() -> None:
    for dim in (2, 64, 3072, 150_528, 10**8):
        assert features.chunk_rows(dim) * dim <= max(features.CHUNK_NUMBERS, 16 * dim)
        assert 16 <= features.chunk_rows(dim) <= features.CHUNK


@pytest.mark.parametrize("pca", [5, None])
def test_a_saved_map_comes_back_in_the_same_bits(digits: np.ndarray, pca: int | None, tmp_path: Path) -> None:
    fitted = fitted_to(digits, pca)
    save_map(fitted, tmp_path)
    loaded = load_map(tmp_path)
    np.testing.assert_array_equal(loaded.mean, fitted.mean)
    np.testing.assert_array_equal(loaded.basis, fitted.basis)
    assert (loaded.dim, loaded.captured) == (fitted.dim, fitted.captured)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"mean": np.zeros(4)},
        {"mean": np.zeros((2, 2), np.float32)},
        {"mean": np.zeros(4, np.float32), "basis": np.zeros((3, 2), np.float32)},
        {"mean": np.zeros(4, np.float32), "basis": np.zeros((4, 2), np.float32), "variances": np.zeros(3)},
        {"mean": np.zeros(4, np.float32), "variances": np.zeros(3)},
    ],
    ids=range(6),
)
def test_what_is_no_map_is_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / MAP, **arrays)
    with pytest.raises(InputError, match="not the features of a pair store; couple into a new directory"):
        load_map(tmp_path)
