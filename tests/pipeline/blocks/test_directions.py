"""Principal directions against a full singular value decomposition, in the same bits for any number of threads."""

import os
import subprocess
import sys

import numpy as np
import pytest

from flowpairs.pipeline.blocks import directions
from flowpairs.pipeline.blocks.directions import RowSample, fit_features
from flowpairs.pipeline.data.rows.rows import Rows

SMALL, WIDE = (3, 12, 10), (3, 38, 40)
K = 12


def smooth(shape: tuple[int, ...], count: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Images whose variances fall off slowly, as those of pictures do: there is no gap behind the last direction."""
    random = np.random.default_rng(seed)
    size = int(np.prod(shape))
    directions_ = np.linalg.qr(random.normal(size=(size, 80)))[0]
    x = random.normal(size=(count, 80)) * 20 / np.arange(1, 81) ** 0.8 @ directions_.T + 0.01 * random.normal(size=size)
    x = x.reshape(count, *shape)
    return (128 + 40 * x).clip(0, 255).astype(np.uint8) if dtype == "uint8" else x.astype(dtype)


def in_float64(x: np.ndarray, *, flips: bool) -> np.ndarray:
    """What takes part, flattened, in model space."""
    x = x / 127.5 - 1 if x.dtype == np.uint8 else x.astype(np.float64)
    return (np.concatenate([x, x[..., ::-1]]) if flips else x).reshape(len(x) * (2 if flips else 1), -1)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("shape", [SMALL, WIDE], ids=["by covariance", "by subspace"])
def test_directions_hold_the_variance_that_the_best_hold(shape: tuple[int, ...], dtype: str, flips: bool) -> None:
    assert (np.prod(shape) > directions.WIDE) == (shape == WIDE)
    x = smooth(shape, 400, dtype)
    rows = Rows([x[:150], x[150:]], [150, 250], shape, dtype)
    found = fit_features([RowSample(rows, np.arange(len(x)), flips)], K)
    flat = in_float64(x, flips=flips)
    centred = flat - flat.mean(0)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    best = (values[:K] ** 2).sum() / len(flat)
    assert found.basis is not None
    assert found.variances is not None
    basis = found.basis.astype(np.float64)
    held = ((centred @ basis) ** 2).sum() / len(flat)
    assert best * (1 - 1e-3) <= held <= best * (1 + 1e-6)
    assert found.variances.sum() == pytest.approx(held, rel=1e-4)
    assert found.total == pytest.approx((centred**2).sum() / len(flat), rel=1e-5)
    np.testing.assert_allclose(basis.T @ basis, np.eye(K), atol=1e-5)
    np.testing.assert_allclose(found.mean, flat.mean(0), atol=1e-6)
    sizes = np.abs(basis)
    first = (sizes >= 0.9999 * sizes.max(0)).argmax(0)
    assert (basis[first, np.arange(K)] > 0).all()
    if shape == SMALL:
        np.testing.assert_allclose(np.abs((vectors[:K] @ basis).diagonal()), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [SMALL, WIDE], ids=["by covariance", "by subspace"])
def test_two_sides_share_their_directions(shape: tuple[int, ...]) -> None:
    """Of some ids of each, of different dtypes, and one of them mirrored."""
    a, b = smooth(shape, 300, "uint8"), smooth(shape, 200, "float32", seed=1) / 3
    some = np.arange(0, 300, 2)
    found = fit_features([RowSample(Rows.of(a), some), RowSample(Rows.of(b), np.arange(200), flips=True)], K)
    flat = np.concatenate([in_float64(a[some], flips=False), in_float64(b, flips=True)])
    centred = flat - flat.mean(0)
    best = (np.linalg.svd(centred, compute_uv=False)[:K] ** 2).sum()
    np.testing.assert_allclose(found.mean, flat.mean(0), atol=1e-6)
    assert found.basis is not None
    assert ((centred @ found.basis.astype(np.float64)) ** 2).sum() >= best * (1 - 1e-3)


@pytest.mark.parametrize("shape", [(5,), (3, 40, 40)], ids=["by covariance", "by subspace"])
def test_more_directions_than_there_are(shape: tuple[int, ...]) -> None:
    """Than coordinates: all of them. Than data: what is left over is orthonormal all the same."""
    x = smooth(shape, 30, "float32") if len(shape) == 3 else np.random.default_rng(0).normal(size=(30, 5))
    x = x.astype(np.float32)
    found = fit_features([RowSample(Rows.of(x), np.arange(30))], 40)
    assert found.basis is not None
    assert found.dim == min(40, x[0].size)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(found.dim), atol=1e-5)
    assert found.captured == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dim", [3, 5_000], ids=["by covariance", "by subspace"])
def test_data_without_variance_have_directions_too(dim: int) -> None:
    found = fit_features([RowSample(Rows.of(np.ones((20, dim), np.float32)), np.arange(20))], 2)
    assert found.basis is not None
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(2), atol=1e-5)
    assert found.captured is None or found.captured == pytest.approx(0, abs=1)


def test_of_many_data_some_take_part_evenly_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "MOST_ROWS", 11)
    x = np.arange(101, dtype=np.float32)[:, None]
    found = fit_features([RowSample(Rows.of(x), np.arange(101))], None)
    assert found.mean.tolist() == [50.0]
    assert RowSample(Rows.of(x), np.arange(101)).spaced().ids.tolist() == list(range(0, 101, 10))


BITS = """
import hashlib, sys
import numpy as np
sys.path[:0] = ["tests", "tests/pipeline/blocks"]
from test_directions import RowSample, Rows, SMALL, WIDE, fit_features, smooth
from flowpairs.pipeline.blocks.features import compute_features
for shape in (SMALL, WIDE):
    for dtype in ("uint8", "float32"):
        rows = Rows.of(smooth(shape, 200, dtype))
        found = fit_features([RowSample(rows, np.arange(200), True)], 8)
        features = compute_features(found, rows, flips=True).whole()
        print(*(hashlib.sha256(array.tobytes()).hexdigest() for array in (found.mean, found.basis, features)))
"""


def test_threads_do_not_change_a_bit() -> None:
    found = set()
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", BITS]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
    assert len(found.pop().split()) == 12
