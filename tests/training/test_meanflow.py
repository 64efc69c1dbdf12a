"""MeanFlow: the identity, its Jacobian-vector product through every model, and samples in one step."""

from functools import partial
from pathlib import Path

import pytest
import torch
from support.models import CONFIGS, config
from support.stores import write_store
from torch import Tensor, nn

from flowpairs.training.config import MLPConfig, OptimisationConfig, RunConfig, TrainConfig
from flowpairs.training.models import build_model
from flowpairs.training.objectives.meanflow import average_velocity
from flowpairs.training.objectives.objective import build_network
from flowpairs.training.objectives.objective import build_objective as build_objective
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.run import loop
from flowpairs.training.run.state import TrainState
from flowpairs.training.sampling.flow import Flow
from flowpairs.training.sampling.ode import solve_dopri5

SCALE = 0.4


class Known(nn.Module):
    """Between N(0, I) and N(0, SCALE^2 I), independent: x_t = std(t) x_0, so all averages are differences of it."""

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None, until: Tensor) -> Tensor:
        return ((std(until) / std(t) - 1) / (until - t))[:, None] * x


def std(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 + SCALE**2 * t**2).sqrt()


def test_the_true_average_velocity_satisfies_the_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    t = 0.8 * torch.rand(20, generator=generator, dtype=torch.float64)
    until = t + (1 - t) * (0.1 + 0.9 * torch.rand(20, generator=generator, dtype=torch.float64))
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    velocity = ((SCALE**2 * t - (1 - t)) / std(t) ** 2)[:, None] * x  # (log std)' x
    found = average_velocity(Known(), t, until, x, velocity, None, torch.arange(len(t)))
    torch.testing.assert_close(found, Known()(t, x, None, until))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_product_is_the_total_derivative_through_every_model(name: str) -> None:
    """Against central differences along the tangent; empty intervals give the velocity itself; no gradient flows."""
    shape = (3, 4, 8)
    model = build_model(config(name, conditional=True), shape, 3, seed=0, spans=True, null=True).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    x, v = torch.randn(2, 4, *shape, generator=generator, dtype=torch.float64)
    t, until = torch.tensor([[0.1, 0.2, 0.5, 0.7], [0.9, 0.2, 0.6, 0.7]], dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 3])
    target = average_velocity(model, t, until, x, v, label, (until > t).nonzero()[:, 0])
    assert not target.requires_grad
    assert torch.equal(target[[1, 3]], v[[1, 3]])
    h = 1e-4
    with torch.no_grad():
        rate = (model(t + h, x + h * v, label, until) - model(t - h, x - h * v, label, until)) / (2 * h)
    truth = v + (until - t).view(4, 1, 1, 1) * rate
    torch.testing.assert_close(target, truth, rtol=1e-4, atol=1e-4)
    assert (target - v)[0].abs().max() > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_the_interval_matters_and_without_an_end_it_is_empty(name: str) -> None:
    model = build_model(config(name), (3, 8, 12), 0, seed=0, spans=True).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        x, t = torch.randn(2, 3, 8, 12, generator=generator), torch.tensor([0.2, 0.3])
        assert torch.equal(model(t, x), model(t, x, None, t))
        assert (model(t, x) - model(t, x, None, t + 0.5)).abs().max() > 1e-4


def test_trained_on_pairs_it_samples_in_one_step(tmp_path: Path) -> None:
    """Independent Gaussians, whose flow bends: one, two and four jumps end where the flow's own ODE does, SCALE x_0."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 8192, 1, generator=generator)
    index = write_store(tmp_path / "store", x0.numpy(), (SCALE * x1).numpy())
    settings = TrainConfig(
        pairs={"dir": str(tmp_path / "store")},
        model=MLPConfig(kind="mlp", width=24, depth=2),
        objective={"kind": "meanflow", "spans": 0.5},
        train=OptimisationConfig(steps=400, batch=192, lr=4e-3, warmup=20, ema=0.98, log_every=200),
        output=RunConfig(dir="unused"),
    )
    state, part = TrainState.start(build_network(settings, index.shape, 0), settings.train), BatchPart(192, 0, 1, 8)
    objective = build_objective(settings, 0)
    draw = partial(objective.draw, shape=index.shape)
    with ShardLoader(tmp_path / "store", index, part, 0, draw=draw) as loader:
        loop.train_loop(state, state.model, loader, objective, settings.train, lambda line: None, lambda metrics: None)
    flow = Flow(state.ema.eval(), settings, None, 0, 1.0)
    at = torch.linspace(-1.5, 1.5, 31)[:, None]
    euler = at + flow.velocity(torch.zeros(31), at)  # one step of the instantaneous velocity goes to 0
    assert (euler - SCALE * at).abs().max() > 0.4
    torch.testing.assert_close(solve_dopri5(flow.velocity, at).end, SCALE * at, rtol=0, atol=0.1)
    for steps in (1, 2, 4):
        solution = flow.jump(at, steps)
        assert solution.nfe == steps
        torch.testing.assert_close(solution.end, SCALE * at, rtol=0, atol=0.15)
