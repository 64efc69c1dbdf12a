"""The Schroedinger bridge between two Gaussians, known in closed form: coupling, path, SDE and [SF]2M."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from support.stores import write_store
from torch import Tensor
from torch.func import grad

from flowpairs.pipeline.ot import Problem, solve_sinkhorn
from flowpairs.training.config import MLPConfig, OptimisationConfig, RunConfig, TrainConfig
from flowpairs.training.objectives.objective import build_network, build_objective
from flowpairs.training.objectives.probability_paths import Bridge
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.run import loop
from flowpairs.training.run.state import TrainState
from flowpairs.training.sampling.flow import Flow
from flowpairs.training.sampling.ode import solve_fixed
from flowpairs.training.sampling.sde import solve_sde

SIGMA, MEANS, STDS = 0.8, (-1.0, 2.0), (1.0, 0.5)
# Covariance of the entropic plan (Janati et al. 2020): the root of C^2 + sigma^2 C = s0^2 s1^2.
COVARIANCE = (np.sqrt(4 * (STDS[0] * STDS[1]) ** 2 + SIGMA**4) - SIGMA**2) / 2


def mean(t: Tensor) -> Tensor:
    return (1 - t) * MEANS[0] + t * MEANS[1]


def variance(t: Tensor) -> Tensor:
    """Of the bridge at t (Bunne et al. 2022, theorem 3)."""
    ends = (1 - t) ** 2 * STDS[0] ** 2 + t**2 * STDS[1] ** 2 + 2 * t * (1 - t) * COVARIANCE
    return ends + SIGMA**2 * t * (1 - t)


def velocity(t: Tensor, x: Tensor) -> Tensor:
    """The only field that carries Gaussians in one dimension into each other."""
    rate = grad(lambda s: variance(s).sum())(t)
    return MEANS[1] - MEANS[0] + (rate / (2 * variance(t)))[:, None] * (x - mean(t)[:, None])


def score(t: Tensor, x: Tensor) -> Tensor:
    return -(x - mean(t)[:, None]) / variance(t)[:, None]


def pairs(n: int) -> Tensor:
    """From the entropic plan, [n, 2]."""
    covariance = np.array([[STDS[0] ** 2, COVARIANCE], [COVARIANCE, STDS[1] ** 2]])
    return torch.from_numpy(np.random.default_rng(0).multivariate_normal(MEANS, covariance, n))


@pytest.mark.parametrize(("cost", "eps"), [("sqeuclidean", 2 * SIGMA**2), ("dot", SIGMA**2)])
def test_sinkhorn_at_the_documented_epsilon_is_its_coupling(cost: str, eps: float) -> None:
    quantiles = scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    x0, x1 = (torch.from_numpy(m + s * quantiles)[:, None] for m, s in zip(MEANS, STDS, strict=True))
    coupling = solve_sinkhorn(Problem(x0, x1, eps, cost=cost), tol=1e-6)
    matrix = (x0 - x1.T) ** 2 if cost == "sqeuclidean" else -x0 @ x1.T
    plan = torch.exp((coupling.f[:, None] + coupling.g - matrix) / eps) / 1000**2
    found = ((x0 - MEANS[0]) * (x1.T - MEANS[1]) * plan).sum().item()
    assert found == pytest.approx(COVARIANCE, rel=0.01)  # 1,000 quantiles lack 0.6 % of the variance


def test_its_marginals_and_velocity_are_those_of_the_path() -> None:
    """Regression of the path's targets on its points, by moments: the path is linear in (x0, x1, z)."""
    path, covariance = Bridge(SIGMA), torch.eye(3, dtype=torch.float64)
    covariance[:2, :2] = torch.tensor([[STDS[0] ** 2, COVARIANCE], [COVARIANCE, STDS[1] ** 2]])
    units = torch.eye(3, dtype=torch.float64)[:, :, None]
    for time in (0.05, 0.3, 0.8):
        t = torch.full((3,), time, dtype=torch.float64)
        x, u = path.point(t, *units)[:, 0], path.velocity(t, *units)[:, 0]
        torch.testing.assert_close(x @ covariance @ x, variance(t)[0])
        slope = (x @ covariance @ u) / (x @ covariance @ x)
        at = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)
        torch.testing.assert_close(MEANS[1] - MEANS[0] + slope * (at - mean(t)[0]), velocity(t, at))
        # The score is the mean of -z / std_t given x, which the score net regresses on.
        expected = -(x @ covariance[:, 2]) / (x @ covariance @ x) / path.std(t[0]) * (at - mean(t)[0])
        torch.testing.assert_close(expected, score(t, at))


def test_its_sde_has_the_marginals_and_joins_the_ends_as_the_plan_does() -> None:
    n, steps = 40_000, 100
    generator = torch.Generator().manual_seed(1)
    x0 = MEANS[0] + STDS[0] * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    states = solve_sde(
        lambda t, x: velocity(t, x) + SIGMA**2 / 2 * score(t, x),
        lambda t: SIGMA,
        x0,
        steps,
        lambda step: torch.randn(n, 1, generator=generator, dtype=torch.float64),
    ).states[:, :, 0]
    for step in (25, 50, 75, 100):
        t = torch.tensor(step / steps, dtype=torch.float64)
        assert states[step].mean().item() == pytest.approx(mean(t).item(), abs=0.02)
        assert states[step].var().item() == pytest.approx(
            variance(t).item(), rel=0.04
        )  # Euler's bias is 2 % at the end
    assert torch.cov(states[[0, -1]])[0, 1].item() == pytest.approx(COVARIANCE, rel=0.05)


def test_sf2m_learns_both_fields(tmp_path: Path) -> None:
    """Velocity and score nets in the middle of the bridge, then samples: ends and joints of the ODE and of the SDE."""
    both = pairs(20_000).float()
    index = write_store(tmp_path / "store", both[:, :1].numpy(), both[:, 1:].numpy())
    config = TrainConfig(
        pairs={"dir": str(tmp_path / "store")},
        model=MLPConfig(kind="mlp", width=24, depth=2),
        path={"kind": "sb", "sigma": SIGMA},
        objective={"kind": "sf2m"},
        loss={"time": "bridge"},
        train=OptimisationConfig(steps=400, batch=256, lr=4e-3, warmup=20, ema=0.98, log_every=200),
        output=RunConfig(dir="unused"),
    )
    state = TrainState.start(build_network(config, index.shape, 0), config.train)
    part = BatchPart(256, 0, 1, 8)
    objective = build_objective(config, 0)
    draw = partial(objective.draw, shape=index.shape)
    with ShardLoader(tmp_path / "store", index, part, 0, draw=draw) as loader:
        loop.train_loop(state, state.model, loader, objective, config.train, lambda line: None, lambda metrics: None)

    net = state.ema.eval()
    t = torch.full((5,), 0.4)
    at = mean(t)[:, None] + variance(t).sqrt()[:, None] * torch.linspace(-1.5, 1.5, 5)[:, None]
    with torch.no_grad():
        v, excess = net(t, at)
    torch.testing.assert_close(v, velocity(t, at), rtol=0, atol=0.15)
    torch.testing.assert_close(excess, SIGMA**2 / 2 * score(t, at), rtol=0, atol=0.1)

    flow = Flow(net, config, None, 0, 1.0)
    generator = torch.Generator().manual_seed(2)
    x0 = MEANS[0] + STDS[0] * torch.randn(5000, 1, generator=generator)
    ode = solve_fixed(flow.velocity, x0, "heun", 50).end
    sde = solve_sde(*flow.sde(), x0, 100, lambda step: torch.randn(5000, 1, generator=generator)).end
    for end, joint in ((ode, STDS[0] * STDS[1]), (sde, COVARIANCE)):
        assert end.mean().item() == pytest.approx(MEANS[1], abs=0.05)
        assert end.std().item() == pytest.approx(STDS[1], rel=0.1)
        assert torch.cov(torch.cat([x0, end], 1).T)[0, 1].item() == pytest.approx(joint, rel=0.12)
