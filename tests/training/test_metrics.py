"""Frechet distance and curvature against scipy and closed forms."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance
from flowpairs.training.metrics.shares import measure_distances
from flowpairs.training.sampling.curvature import (
    curvature_by_time,
    integrate_unit_interval,
    straightness_by_time,
)


def random_gaussian(seed: int, k: int, rank: int) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(k, rank, generator=generator, dtype=torch.float64)
    return Gaussian(torch.randn(k, generator=generator, dtype=torch.float64), factor @ factor.T)


@pytest.mark.parametrize("rank", [6, 3])
def test_frechet_distance_is_the_formula_with_scipys_matrix_root(rank: int) -> None:
    """Also where both covariances are singular, as with fewer samples than features."""
    a, b = random_gaussian(0, 6, rank), random_gaussian(1, 6, rank)
    product = a.covariance.numpy() @ b.covariance.numpy()
    # A singular product has no accurate Schur root: the eigenvalues' roots sum to the same trace.
    root_trace = (
        scipy.linalg.sqrtm(product).real.trace()
        if rank == 6
        else np.sqrt(np.abs(scipy.linalg.eigvals(product)).clip(1e-14)).sum()
    )
    truth = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * root_trace
    assert frechet_distance(a, b) == pytest.approx(truth.item(), rel=1e-5)


def test_frechet_distance_of_commuting_covariances_has_a_closed_form() -> None:
    """|mu_a - mu_b|^2 + sum (sigma_a - sigma_b)^2, and zero to itself."""
    sigma_a, sigma_b = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.5, 4.0]], dtype=torch.float64)
    a = Gaussian(torch.zeros(3, dtype=torch.float64), torch.diag(sigma_a**2))
    b = Gaussian(torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64), torch.diag(sigma_b**2))
    assert frechet_distance(a, b) == pytest.approx(5.0 + 4.0 + 2.25 + 16.0)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-12)


SAMPLES = {
    "full rank": lambda draw: draw(200, 8),
    "rank 1": lambda draw: 1e3 * draw(100, 1) @ draw(1, 16),
    "one row": lambda draw: draw(1, 16),
    "the same row again": lambda draw: draw(1, 16).repeat(9, 1),
    "five rows, each 40 times": lambda draw: draw(5, 64).repeat(40, 1),
    "fewer rows than features": lambda draw: draw(20, 64),
    "one feature": lambda draw: draw(9, 1),
    "float32": lambda draw: draw(30, 8).float(),
}


def drawing(seed: int) -> Callable[[int, int], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda rows, columns: torch.randn(rows, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_has_no_distance_to_itself_whatever_its_rank(name: str) -> None:
    """Also to its rows in another order, and where no more than the covariance is known."""
    rows = SAMPLES[name](drawing(0))
    one, again = Gaussian.fit(rows), Gaussian.fit(rows.flip(0))
    for other in (one, again, Gaussian(one.mean, one.covariance)):
        assert 0 <= frechet_distance(one, other) <= 1e-14 * (1 + one.covariance.trace())


@pytest.mark.parametrize(("few", "many"), [(1, 1), (1, 100), (3, 5), (3, 100), (20, 100)])
def test_samples_of_few_rows_are_at_the_distance_of_their_spectra(few: int, many: int) -> None:
    """|mu_a - mu_b|^2 + tr A + tr B - 2 sum of singular values of the centred rows' product; symmetric."""
    draw = drawing(1)
    x, y = draw(few, 16), 2 * draw(many, 16) + 1
    flat = [(rows - rows.mean(0)).numpy() / max(1, len(rows) - 1) ** 0.5 for rows in (x, y)]
    cross = scipy.linalg.svdvals(flat[0] @ flat[1].T).sum()
    truth = np.square((x.mean(0) - y.mean(0)).numpy()).sum() + sum(np.square(rows).sum() for rows in flat) - 2 * cross
    a, b = Gaussian.fit(x), Gaussian.fit(y)
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(truth, rel=1e-12)
    bare = [Gaussian(gaussian.mean, gaussian.covariance) for gaussian in (a, b)]
    assert frechet_distance(*bare) == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("k", [1, 3, 16, 64])
def test_well_conditioned_samples_are_at_the_distance_of_scipys_matrix_root(k: int) -> None:
    draw = drawing(k)
    a, b = (Gaussian.fit(draw(10 * k, k) @ (torch.eye(k) + draw(k, k) / k) + draw(1, k)) for _ in range(2))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real.trace()
    truth = np.square((a.mean - b.mean).numpy()).sum() + (a.covariance + b.covariance).trace().item() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-10)


def features(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of correlated features, of unlike sizes."""
    rng = np.random.default_rng(k)
    one = rng.normal(size=(20 * k, k)) @ (np.eye(k) + rng.normal(size=(k, k)) / k)
    return one, 1.2 * rng.normal(size=(15 * k, k)) + 0.1


@pytest.mark.parametrize("k", [8, 64, 200])
def test_the_distance_of_given_features_is_fids_by_numpy_and_scipy(k: int) -> None:
    """As the FID of TTUR and clean-fid is written: np.mean, np.cov, scipy.linalg.sqrtm."""
    x, y = features(k)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    truth = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b) - 2 * scipy.linalg.sqrtm(a @ b).real.trace()
    found = frechet_distance(*(Gaussian.fit(torch.from_numpy(rows)) for rows in (x, y)))
    assert found == pytest.approx(truth, rel=1e-10)


def test_the_distance_of_given_features_is_torch_fidelitys() -> None:
    try:
        from torch_fidelity import metric_fid
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision for another build of torch
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    x, y = (torch.from_numpy(rows) for rows in features(64))
    truth = metric_fid.fid_statistics_to_metric(*map(metric_fid.fid_features_to_statistics, (x, y)), verbose=False)
    found = frechet_distance(Gaussian.fit(x), Gaussian.fit(y))
    assert found == pytest.approx(truth[metric_fid.KEY_METRIC_FID], rel=1e-10)


def test_gaussian_fit_is_numpys_mean_and_covariance() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4))
    fit = Gaussian.fit(torch.from_numpy(rows))
    np.testing.assert_allclose(fit.mean, rows.mean(0))
    np.testing.assert_allclose(fit.covariance, np.cov(rows.T))


def test_principal_components_are_sklearns() -> None:
    rows = np.random.default_rng(1).normal(size=(200, 2, 3)) * np.array([3.0, 2.0, 1.0])
    truth = PCA(3, svd_solver="full").fit(rows.reshape(200, 6))
    ours = Principal.fit(torch.from_numpy(rows), 3)(torch.from_numpy(rows))
    np.testing.assert_allclose(ours.abs().numpy(), np.abs(truth.transform(rows.reshape(200, 6))), atol=1e-8)


def test_straight_flow_has_no_curvature() -> None:
    x0 = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    assert curvature_by_time(lambda t, x: shift.expand_as(x), x0, steps=8).abs().max() < 1e-20


def test_curvature_of_a_rotation_has_a_closed_form() -> None:
    """A quarter turn: |v|^2 = (pi/2)^2 r^2 throughout and |chord|^2 = 2 r^2, so the integral is r^2 (pi^2/4 - 2)."""
    x0 = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    def quarter_turn(t: Tensor, x: Tensor) -> Tensor:
        return torch.pi / 2 * torch.stack([-x[:, 1], x[:, 0]], dim=1)

    bends, distances = straightness_by_time(quarter_turn, x0, steps=200)
    torch.testing.assert_close(bends, curvature_by_time(quarter_turn, x0, steps=200))
    assert integrate_unit_interval(bends) == pytest.approx(5.0 * (np.pi**2 / 4 - 2), rel=1e-3)
    # At t, |(cos - 1 + t, sin - t)|^2 r^2 of the angle pi t / 2: the arc less its chord.
    t = np.linspace(0, 1, 201)
    angle = np.pi / 2 * t
    expected = 5.0 * ((np.cos(angle) - 1 + t) ** 2 + (np.sin(angle) - t) ** 2)
    np.testing.assert_allclose(distances.numpy(), expected, atol=1e-3)


def test_the_floor_is_what_so_many_data_have_by_chance() -> None:
    """For n rows of N(0, I) in k dimensions it is near (k + (k^2 + k) / 4) / n, by the delta method."""
    k, n = 4, 400
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(20_000, k, generator=generator, dtype=torch.float64)
    samples = {"real": real, "euler 4": real[:n] + 1}
    width, distances, floor = measure_distances(["euler 4"], n, 0, samples)
    assert width == k
    assert floor == pytest.approx((k + (k**2 + k) / 4) / n, rel=0.5)
    assert distances["euler 4"] == pytest.approx(k, rel=0.2)
    assert measure_distances([], 10 * n, 0, samples)[2] < floor / 4
