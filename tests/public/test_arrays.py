"""`couple` and `solve` on arrays: the job's numbers, POT's plans, and one sentence for every mistake."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ot
import pytest
import torch
from sklearn.datasets import load_digits
from support.couplings import settings
from support.matchings import pairs as pairs_of

import flowpairs as fp
from flowpairs.pipeline.couple import couple as run_job
from flowpairs.pipeline.store.block_reports import read_blocks

N, M = 60, 45
DRAWS = 600


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return (load_digits().images / 8 - 1).astype(np.float32)[:, None]


@pytest.fixture(scope="module")
def points() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((N, 3)), generator.standard_normal((M, 3)) * [2, 1, 0.5] + 1


JOBS: list[dict[str, Any]] = [
    {"n": 400, "rel_eps": 0.1},
    {"n": 400, "sharpness": 0.2, "pca": 16, "draw": "balanced", "seed": 3},
    {"n": 300, "method": "exact"},
    {"n": 300, "method": "independent"},
    {"n": 500, "method": "semidiscrete", "rel_eps": 0.05, "chi2": 0.3, "pca": 16},
    {"n": 300, "eps": 4.0, "cost": "sqeuclidean", "pca": 8},
]


@pytest.mark.parametrize("given", JOBS, ids=range(len(JOBS)))
def test_pairs_are_those_of_the_jobs_first_block(digits: np.ndarray, tmp_path: Path, given: dict[str, Any]) -> None:
    np.savez(tmp_path / "digits.npz", image=digits)
    options = {key: value for key, value in given.items() if key not in ("pca", "draw", "seed")}
    config = settings(
        tmp_path / "s",
        data={"path": str(tmp_path / "digits.npz"), "label": None},
        source={"kind": "gaussian", "seed": given.get("seed", 0)},
        features={"pca": given.get("pca")},
        coupling={"rel_eps": None, **options},
        sampling={"draw": given.get("draw", "categorical")},
        output={"pairs": given["n"]},
    )
    run_job(config)
    found, job = fp.couple(digits, **given), pairs_of(tmp_path / "s", labels=False)
    np.testing.assert_array_equal(found.data_ids, job["data_ids"])
    np.testing.assert_array_equal(found.x0, job["x0"])
    np.testing.assert_array_equal(found.x1, job["x1"])
    (row,) = read_blocks(tmp_path / "s")
    for key in ("sharpness", "cost_coupled", "passes"):  # an estimate's last digits depend on the number of threads
        assert row[key] == pytest.approx(found.report[key], rel=1e-12)
    assert len(found) == given["n"]


def test_two_sets_of_data_meet_as_in_the_job(points: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    x0, x1 = (side.astype(np.float32) for side in points)
    for name, rows in (("a", x0), ("b", x1)):
        np.savez(tmp_path / f"{name}.npz", image=rows)
    source = {"kind": "data", "path": str(tmp_path / "a.npz")}
    data = {"path": str(tmp_path / "b.npz"), "label": None}
    run_job(settings(tmp_path / "s", data=data, source=source, coupling={"n": N}, output={"pairs": N}))
    found, job = fp.couple(x1, x0=x0, rel_eps=0.1), pairs_of(tmp_path / "s", labels=False)
    np.testing.assert_array_equal(found.data_ids, job["data_ids"])
    np.testing.assert_array_equal(found.x0, job["x0"])
    np.testing.assert_array_equal(found.x0, x0[found.source_ids])


def test_images_of_bytes_are_scaled_as_files_of_them_are(digits: np.ndarray) -> None:
    pixels = (load_digits().images * 15).astype(np.uint8)
    found = fp.couple(pixels, n=50)
    assert found.x1.shape == (50, 1, 8, 8)
    np.testing.assert_allclose(found.x1[:, 0], pixels[found.data_ids] / 127.5 - 1, atol=1e-6)


def test_tensors_come_back_as_tensors(digits: np.ndarray) -> None:
    found, arrays = fp.couple(torch.from_numpy(digits), n=100), fp.couple(digits, n=100)
    assert isinstance(found.x0, torch.Tensor)
    np.testing.assert_array_equal(found.data_ids.numpy(), arrays.data_ids)
    np.testing.assert_array_equal(found.x1.numpy(), arrays.x1)


def test_more_pairs_than_data_use_every_datum() -> None:
    found = fp.couple(np.random.default_rng(0).standard_normal((20, 2)), n=100, draw="balanced")
    assert (np.bincount(found.data_ids) == 5).all()


def plan_of(coupling: fp.Coupling, x0: np.ndarray, x1: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The plan in float64, from the potentials and the definition alone; the cost is the dot product."""
    f, g = coupling.potentials
    return a[:, None] * b * np.exp((f[:, None] + g + x0 @ x1.T) / coupling.report.eps)


def test_a_coupling_is_pots_plan(points: tuple[np.ndarray, np.ndarray]) -> None:
    x0, x1 = points
    generator = np.random.default_rng(1)
    a, b = generator.dirichlet(np.ones(N)), generator.dirichlet(np.ones(M))
    found = fp.solve(x0, x1, a=a, b=b, eps=0.5, tol=1e-9)
    plan = plan_of(found, x0, x1, a, b)
    truth = ot.sinkhorn(a, b, -x0 @ x1.T, 0.5, method="sinkhorn_log", stopThr=1e-12, numItermax=100_000)
    np.testing.assert_allclose(plan, truth, atol=1e-9)
    conditional = plan / plan.sum(1, keepdims=True)
    np.testing.assert_array_equal(found.argmax(), conditional.argmax(1))
    np.testing.assert_allclose(found.barycentric(), conditional @ x1, atol=1e-6)
    np.testing.assert_allclose(found.barycentric(b[:, None]), conditional @ b[:, None], atol=1e-6)
    counts = np.zeros((N, M))
    for seed in range(DRAWS):
        counts[np.arange(N), found.sample(seed)] += 1
    expected = DRAWS * conditional
    used = expected > 5
    chi2, freedom = ((counts - expected)[used] ** 2 / expected[used]).sum(), used.sum() - N
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5
    np.testing.assert_array_equal(found.sample(7), found.sample(7))


def test_an_exact_coupling_is_the_assignment(points: tuple[np.ndarray, np.ndarray]) -> None:
    from scipy.optimize import linear_sum_assignment

    x0, x1 = points[0][:M], points[1]
    found = fp.solve(x0, x1, method="exact")
    rows, columns = linear_sum_assignment(-x0 @ x1.T)
    for partners in (found.sample(0), found.argmax()):
        np.testing.assert_array_equal(partners, columns[rows.argsort()])
    np.testing.assert_allclose(found.barycentric(), x1[columns], rtol=1e-6)
    assert found.potentials is None
    independent = fp.solve(x0, x1, method="independent")
    np.testing.assert_allclose(independent.barycentric(), np.tile(x1.mean(0), (M, 1)), rtol=1e-6)


def squared(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return torch.cdist(ours, theirs).square()


def test_a_cost_may_be_a_function(points: tuple[np.ndarray, np.ndarray]) -> None:
    x0, x1 = points
    named, own = (fp.solve(x0, x1, eps=1.0, tol=1e-6, cost=cost) for cost in ("sqeuclidean", squared))
    np.testing.assert_allclose(own.barycentric(), named.barycentric(), atol=1e-3)
    pairs = fp.couple(x1, x0=x0, rel_eps=0.1, cost=squared)
    assert pairs.report["cost_coupled"] < pairs.report["cost_independent"]
    with pytest.raises(ValueError, match=r"cost=.*cannot be named; give a function defined at the top of a module"):
        fp.solve(x0, x1, cost=lambda ours, theirs: squared(ours, theirs))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: fp.couple(x, n=10, rel_eps=0.1, eps=1.0), r"^rel_eps and eps given; keep one"),
        (lambda x: fp.couple(x, n=10, methd="exact"), r"^methd='exact': unknown key; did you mean method\?"),
        (lambda x: fp.couple(x, n=0), r"^n=0: input should be greater than or equal to 1"),
        (lambda x: fp.couple(x, n=10, pca=0), r"^pca=0: "),
        (lambda x: fp.couple(x[:0]), r"^x1: shape \[0, 1, 8, 8\]; give at least one row"),
        (lambda x: fp.couple(x, x0=x[:, :, :4]), r"^x0: rows of shape \[1, 4, 8\], those of x1 have \[1, 8, 8\]"),
        (lambda x: fp.couple(np.full((5, 2), np.nan)), r"^x1: "),
        (lambda x: fp.couple(x, n=10, method="imported"), r"table"),
        (lambda x: fp.couple(x, n=50, rel_eps=1e-3, max_passes=1, tol=1e-9), r"^max_passes=1: not converged"),
        (lambda x: fp.solve(x, x), r"x0: shape \(1797, 1, 8, 8\)"),
        (lambda x: fp.solve(x[:, 0, 0], x[:, 0, 0], method="semidiscrete"), r"^method='semidiscrete': "),
        (lambda x: fp.solve(x[:, 0, 0], x[:, 0, 0], a=np.ones(1797)), r"^a: weights must be non-negative and sum to 1"),
        (lambda x: fp.solve(x[:9, 0, 0], x[:9, 0, 0]).barycentric(x[:5, 0, 0]), r"^values: shape \(5, 8\); give one"),
    ],
)
def test_a_mistake_is_one_sentence(digits: np.ndarray, call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        call(digits)
    assert "\n" not in str(refused.value)


def test_neither_ray_nor_files_take_part(tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np, flowpairs as fp\n"
        "x = np.random.default_rng(0).standard_normal((300, 4))\n"
        "fp.couple(x, n=100); fp.couple(x, n=100, method='semidiscrete', chi2=0.5)\n"
        "fp.solve(x, x).sample()\n"
        "print([name for name in ('ray', 'webdataset', 'pandas', 'matplotlib', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []
