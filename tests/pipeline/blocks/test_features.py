"""Features against scikit-learn's PCA, and noise projected in chunks against noise projected at once."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from flowpairs.pipeline.blocks import features, noise
from flowpairs.pipeline.store.features_file import load_features, save_features


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return (load_digits().images / 8 - 1).astype(np.float32)[:, None]


@pytest.mark.parametrize("flips", [False, True])
def test_directions_are_those_of_sklearn(digits: np.ndarray, flips: bool) -> None:
    fitted = features.fit_features(digits, 10, flips=flips)
    rows = np.concatenate([digits, digits[..., ::-1]]) if flips else digits
    truth = PCA(10, svd_solver="full").fit(rows.reshape(len(rows), -1).astype(np.float64))
    got = fitted.of_data(digits, flips=flips)
    expected = truth.transform(rows.reshape(len(rows), -1).astype(np.float64))
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=2e-4)
    np.testing.assert_allclose(fitted.basis.T @ fitted.basis, np.eye(10), atol=1e-5)


def test_without_pca_features_are_the_centred_data(digits: np.ndarray) -> None:
    fitted = features.fit_features(digits, None, flips=False)
    flat = digits.reshape(len(digits), -1)
    np.testing.assert_allclose(fitted.of_data(digits, flips=False), flat - flat.mean(0), atol=1e-5)


def test_noise_features_are_the_projected_noise(digits: np.ndarray) -> None:
    fitted = features.fit_features(digits, 7, flips=False)
    assert fitted.basis is not None
    got = fitted.of_noise(3, 1_000, 9_000)
    np.testing.assert_allclose(got, noise.gaussian(3, 1_000, 9_000, 64) @ fitted.basis, atol=1e-5)
    np.testing.assert_allclose(np.cov(got.T), np.eye(7), atol=0.08)


def test_mirrored_ids(digits: np.ndarray) -> None:
    ids = np.array([3, 3 + len(digits), 0])
    out = features.gather(digits, ids)
    np.testing.assert_array_equal(out[1], digits[3][..., ::-1])
    np.testing.assert_array_equal(out[[0, 2]], digits[[3, 0]])


def test_saved_features_come_back_in_the_same_bits(digits: np.ndarray, tmp_path: Path) -> None:
    fitted = features.fit_features(digits, 5, flips=False)
    save_features(fitted, tmp_path)
    loaded = load_features(tmp_path)
    np.testing.assert_array_equal(loaded.mean, fitted.mean)
    np.testing.assert_array_equal(loaded.basis, fitted.basis)
