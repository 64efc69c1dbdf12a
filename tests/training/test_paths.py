"""Every path against its published formula, by automatic differentiation, and against closed forms of Gaussians."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from flowpairs.training.objectives.probability_paths import KINDS, Bridge, Path, Straight, TargetOnly, Trigonometric

PATHS: dict[str, Path] = {
    "I-CFM": Straight(0.3),
    "OT-CFM": Straight(),
    "FM": TargetOnly(0.1),
    "SB-CFM": Bridge(0.7),
    "VP-CFM": Trigonometric(0.2),
}
# Mean, standard deviation and velocity at a point x, from table 1 of arXiv 2302.00482 (s is sigma).
MEANS = {
    "I-CFM": lambda t, x0, x1, s: (1 - t) * x0 + t * x1,
    "OT-CFM": lambda t, x0, x1, s: (1 - t) * x0 + t * x1,
    "FM": lambda t, x0, x1, s: t * x1,
    "SB-CFM": lambda t, x0, x1, s: (1 - t) * x0 + t * x1,
    "VP-CFM": lambda t, x0, x1, s: torch.cos(math.pi * t / 2) * x0 + torch.sin(math.pi * t / 2) * x1,
}
VARIANCES = {
    "I-CFM": lambda t, s: s**2 + 0 * t,
    "OT-CFM": lambda t, s: 0 * t,
    "FM": lambda t, s: (1 - (1 - s) * t) ** 2,
    "SB-CFM": lambda t, s: s**2 * t * (1 - t),
    "VP-CFM": lambda t, s: s**2 + 0 * t,
}
VELOCITIES = {
    "I-CFM": lambda t, x, x0, x1, s: x1 - x0,
    "OT-CFM": lambda t, x, x0, x1, s: x1 - x0,
    "FM": lambda t, x, x0, x1, s: (x1 - (1 - s) * x) / (1 - (1 - s) * t),
    "SB-CFM": lambda t, x, x0, x1, s: (1 - 2 * t) / (2 * t * (1 - t)) * (x - MEANS["SB-CFM"](t, x0, x1, s)) + x1 - x0,
    "VP-CFM": lambda t, x, x0, x1, s: math.pi / 2 * (torch.cos(math.pi * t / 2) * x1 - torch.sin(math.pi * t / 2) * x0),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


T = 0.05 + 0.9 * torch.rand(7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
X0, X1, Z = drawn(3, 7, 3, 4)
COLUMN = T.view(7, 1, 1)


@pytest.mark.parametrize("name", PATHS)
def test_points_and_targets_are_the_published_ones(name: str) -> None:
    path, sigma = PATHS[name], PATHS[name].sigma
    x = path.point(T, X0, X1, Z)
    spread = VARIANCES[name](COLUMN, sigma).sqrt()
    torch.testing.assert_close(x, MEANS[name](COLUMN, X0, X1, sigma) + spread * Z)
    torch.testing.assert_close(path.velocity(T, X0, X1, Z), VELOCITIES[name](COLUMN, x, X0, X1, sigma))


@pytest.mark.parametrize("name", PATHS)
def test_the_velocity_generates_the_path(name: str) -> None:
    """It is the time derivative of the flow map z -> x_t, and so the density satisfies the continuity equation."""
    path, sigma = PATHS[name], PATHS[name].sigma
    _, derivative = jvp(lambda t: path.point(t, X0, X1, Z), (T,), (torch.ones_like(T),))
    torch.testing.assert_close(path.velocity(T, X0, X1, Z), derivative)
    if not path.noisy:
        return
    x0, x1 = X0[0, 0], X1[0, 0]  # 4 coordinates

    def log_density(t: Tensor, x: Tensor) -> Tensor:
        variance = VARIANCES[name](t, sigma)
        return -((x - MEANS[name](t, x0, x1, sigma)) ** 2).sum() / (2 * variance) - len(x) / 2 * variance.log()

    def field(t: Tensor, x: Tensor) -> Tensor:
        z = (x - MEANS[name](t, x0, x1, sigma)) / VARIANCES[name](t, sigma).sqrt()
        return path.velocity(t[None], x0[None], x1[None], z[None])[0]

    t, x = torch.tensor(0.37, dtype=torch.float64), drawn(4, seed=5)
    change = grad(log_density, 0)(t, x)
    divergence = torch.func.jacrev(field, 1)(t, x).trace()
    torch.testing.assert_close(change + divergence + grad(log_density, 1)(t, x) @ field(t, x), change * 0)


@pytest.mark.parametrize("name", ["I-CFM", "FM", "SB-CFM", "VP-CFM"])
def test_noise_is_the_score_of_the_path(name: str) -> None:
    """-z / std_t, which [SF]2M regresses on, is grad log p_t(x given x0, x1)."""
    path, sigma = PATHS[name], PATHS[name].sigma
    x = path.point(T, X0, X1, Z)

    def log_density(x: Tensor, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return -((x - MEANS[name](t, x0, x1, sigma)) ** 2).sum() / (2 * VARIANCES[name](t, sigma))

    torch.testing.assert_close(vmap(grad(log_density))(x, T, X0, X1), -Z / path.std(COLUMN))


@pytest.mark.parametrize("name", ["OT-CFM", "SB-CFM"])
def test_ends_are_the_pair(name: str) -> None:
    path = PATHS[name]
    assert torch.equal(path.point(torch.zeros(7), X0, X1, Z), X0)
    assert torch.equal(path.point(torch.ones(7), X0, X1, Z), X1)


def test_lipmans_source_is_the_noise_whatever_x0_is() -> None:
    path = PATHS["FM"]
    assert torch.equal(path.point(torch.zeros(7), X0, X1, Z), Z)
    assert torch.equal(path.velocity(T, X0, X1, Z), path.velocity(T, 5 - X0, X1, Z))


@pytest.mark.parametrize("sigma", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["cfm", "fm", "vp"])
def test_marginal_velocity_and_score_between_gaussians(kind: str, sigma: float) -> None:
    """N(0, 1) to N(m, c^2), independent: regression on the targets gives the closed form, and `score` that of p_t.

    The moments of (x_t, target) are written down here, not sampled: x1 = m + c e, all of x0, e, z standard.
    """
    m, c = 1.5, 0.6
    path = KINDS[kind](sigma)
    for time in (0.1, 0.5, 0.9):
        t = torch.tensor([time], dtype=torch.float64)
        zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        # Both are linear, so their coefficients on (x0, e, z) and their constants are what unit inputs give.
        inputs = [(one, zero, zero), (zero, c * one, zero), (zero, zero, one)]
        x = torch.tensor([path.point(t, *ends).item() for ends in inputs], dtype=torch.float64)
        u = torch.tensor([path.velocity(t, *ends).item() for ends in inputs], dtype=torch.float64)
        mean_x, mean_u = path.point(t, zero, m * one, zero).item(), path.velocity(t, zero, m * one, zero).item()
        at = torch.linspace(-3, 3, 5, dtype=torch.float64)[:, None]
        velocity = mean_u + (x @ u) / (x @ x) * (at - mean_x)

        def log_marginal(point: Tensor, mean: float = mean_x, variance: Tensor = x @ x) -> Tensor:
            return -((point - mean) ** 2).sum() / (2 * variance)

        score = vmap(grad(log_marginal))(at)
        torch.testing.assert_close(path.score(t.expand(5), at, velocity), score)
        # In one dimension the velocity that carries Gaussians into each other is mean' + (log std)' (x - mean).
        _, (mean_rate, log_std_rate) = jvp(lambda s: moments(path, s, m, c), (t,), (torch.ones_like(t),))
        torch.testing.assert_close(velocity, (mean_rate + log_std_rate * (at[:, 0] - mean_x))[:, None])


def moments(path: Path, t: Tensor, m: float, c: float) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of x_t by table 1."""
    name = {Straight: "I-CFM", TargetOnly: "FM", Trigonometric: "VP-CFM"}[type(path)]
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    source = MEANS[name](t, one, zero, path.sigma)
    target = MEANS[name](t, zero, one, path.sigma)
    variance = source**2 + (c * target) ** 2 + VARIANCES[name](t, path.sigma)
    return m * target, variance.log() / 2


def test_a_mixture_has_the_score_that_its_velocity_tells() -> None:
    """N(0, I) to a few points: the velocity as a weighted mean, the score by differentiating the mixture's density."""
    data = drawn(6, 2, seed=3)
    path = Straight()
    t, x = torch.full((9,), 0.6, dtype=torch.float64), drawn(9, 2, seed=4)

    def log_density(point: Tensor) -> Tensor:
        return torch.logsumexp(-((point - 0.6 * data) ** 2).sum(1) / (2 * 0.4**2), 0)

    weights = torch.softmax(-((x[:, None] - 0.6 * data) ** 2).sum(2) / (2 * 0.4**2), 1)
    velocity = (weights @ data - x) / 0.4  # E[x1 - x0 given x_t], with x0 = (x - t x1) / (1 - t)
    torch.testing.assert_close(path.score(t, x, velocity), vmap(grad(log_density))(x))


def test_the_bridge_does_not_guess_a_score() -> None:
    with pytest.raises(NotImplementedError, match="does not determine its score"):
        Bridge(1.0).score(T, X0, X1)
