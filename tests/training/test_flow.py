"""What solvers are given: guided velocities, SDEs out of velocities, and the refusal of what a model cannot give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import drawn
from support.stores import write_store
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import validate
from flowpairs.training import objectives
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.evaluate import solvers as solvers_of
from flowpairs.training.objectives import probability_paths
from flowpairs.training.pairs.batch import Batch, BatchRows
from flowpairs.training.pairs.reference import read_reference
from flowpairs.training.run.directory import RunDirectory
from flowpairs.training.run.state import TrainState
from flowpairs.training.run.trained import Trained
from flowpairs.training.sampling.flow import Flow, check_sampler
from flowpairs.training.sampling.sampler import Sampler
from flowpairs.training.sampling.sde import from_velocity, solve_sde


def config(**changes: Any) -> TrainConfig:
    plain: dict[str, Any] = {
        "pairs": {"dir": "pairs"},
        "model": {"kind": "mlp", "width": 16, "depth": 1},
        "train": {"steps": 10},
        "output": {"dir": "run"},
    }
    for key, value in changes.items():
        plain[key] = {**plain.get(key, {}), **value}
    return validate(TrainConfig, plain)


SF2M: dict[str, Any] = {"path": {"kind": "sb", "sigma": 0.5}, "objective": {"kind": "sf2m"}}
LABELS: dict[str, Any] = {"model": {"conditional": True}, "train": {"label_dropout": 0.1}}


@pytest.mark.parametrize("changes", [{}, SF2M])
def test_guidance_extrapolates_from_no_label(changes: dict[str, Any]) -> None:
    settings = config(**LABELS, **changes)
    net = objectives.build_network(settings, (3,), 4).eval()
    generator = torch.Generator().manual_seed(0)
    x, t, label = torch.randn(6, 3, generator=generator), torch.rand(6, generator=generator), torch.arange(6) % 4

    def velocity(label: Tensor) -> Tensor:
        out = net(t, x, label)
        return out[0] if changes else out

    with torch.no_grad():
        given, free = velocity(label), velocity(torch.full((6,), 4))
        assert (given - free).abs().max() > 1e-3
        for scale in (0.0, 1.0, 3.0):
            guided = Flow(net, settings, label, 4, scale).velocity(t, x)
            torch.testing.assert_close(guided, free + scale * (given - free))


@pytest.mark.parametrize(("kind", "sigma"), [("cfm", 0.0), ("cfm", 0.3), ("fm", 0.1), ("vp", 0.0)])
def test_the_sde_of_a_velocity_ends_in_the_same_gaussian(kind: str, sigma: float) -> None:
    """N(0, 1) to N(1.5, 0.6^2), independent: the SDE carries the marginals that the velocity was made from."""
    path, m, c, n = probability_paths.KINDS[kind](sigma), 1.5, 0.6, 40_000

    def moments(t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_t, which is linear in x0, (x1 - m) / c and z."""
        one, zero = torch.ones_like(t)[:, None], torch.zeros_like(t)[:, None]
        parts = [path.point(t, one, zero, zero), path.point(t, zero, c * one, zero), path.point(t, zero, zero, one)]
        return path.point(t, zero, m * one, zero), torch.stack(parts).square().sum(0)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        (mean, variance), (rate, growth) = torch.func.jvp(moments, (t[:1],), (torch.ones_like(t[:1]),))
        return rate + growth / (2 * variance) * (x - mean)

    generator = torch.Generator().manual_seed(0)
    mean, variance = moments(torch.zeros(1, dtype=torch.float64))
    x0 = mean + variance.sqrt() * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    drift, diffusion = from_velocity(path, velocity)
    states = solve_sde(drift, diffusion, x0, 100, lambda step: torch.randn(n, 1, generator=generator).double()).states
    for step in (50, 100):
        mean, variance = moments(torch.tensor([step / 100], dtype=torch.float64))
        assert states[step].mean().item() == pytest.approx(mean.item(), abs=0.02)
        assert states[step].var().item() == pytest.approx(variance.item(), rel=0.03)
    # What is carried forgets where it came from: an ODE's ends would correlate fully.
    assert torch.corrcoef(states[[0, -1], :, 0])[0, 1] < 0.9


@pytest.mark.parametrize(
    ("changes", "asked", "method", "sentence"),
    [
        ({}, {"guidance": 2.0}, "exact", r"guidance=2.0: the run hid no labels; train with train.label_dropout=0.1"),
        (LABELS | {"objective": {"kind": "meanflow"}}, {"guidance": 2.0}, "exact", "leave it at 1 for meanflow"),
        ({"path": SF2M["path"]}, {"sde": (8,)}, "sinkhorn", r"sde=\[8\]: the run has no score net"),
        ({}, {"sde": (8,)}, "sinkhorn", r"for independent pairs alone, and these are sinkhorn"),
    ],
)
def test_samples_that_a_model_cannot_give_are_refused(
    changes: dict[str, Any], asked: dict[str, Any], method: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        check_sampler(EvaluateConfig(**asked), config(**changes), method)


def test_samples_that_it_can_give_are_not() -> None:
    check_sampler(EvaluateConfig(guidance=2.0), config(**LABELS), "sinkhorn")
    check_sampler(EvaluateConfig(sde=(8,)), config(), "independent")
    check_sampler(EvaluateConfig(sde=(8,)), config(path={"kind": "fm"}), "sinkhorn")
    check_sampler(EvaluateConfig(), config(**SF2M), "sinkhorn")


@pytest.mark.parametrize(
    ("changes", "solvers"),
    [
        (SF2M | LABELS, ["euler4", "sde16", "sde64", "dopri5"]),
        ({"objective": {"kind": "meanflow"}}, ["jump1", "jump2", "jump4", "euler4", "dopri5"]),
    ],
)
def test_evaluation_samples_alike_however_it_is_batched(
    changes: dict[str, Any], solvers: list[str], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 64, 3)).astype(np.float32)
    index = write_store(tmp_path / "store", *x, labels=generator.integers(4, size=64))
    settings = config(**changes)
    TrainState.start(objectives.build_network(settings, (3,), 4), settings.train).save(tmp_path)
    trained = Trained(RunDirectory(tmp_path), tmp_path, settings, str(tmp_path / "store"), index.method, (3,), 4)
    labels, found = read_reference(tmp_path / "store", index).label, []
    for batch in (96, 40):
        asked = EvaluateConfig(samples=96, batch=batch, euler=(4,), guidance=2.0 if "train" in changes else 1.0)
        sampler = Sampler(trained, asked, labels, torch.device("cpu"))
        made = {f"{name}{steps or ''}": sampler.samples(name, steps) for name, steps in solvers_of(asked, settings)}
        found.append(made)
    assert list(found[0]) == solvers
    for name in solvers:
        tolerance = 1e-3 if name == "dopri5" else 1e-5  # whose steps suit the batch
        torch.testing.assert_close(found[0][name][0], found[1][name][0], rtol=tolerance, atol=tolerance)
        assert found[0][name][1] == int("".join(filter(str.isdigit, name))) or name == "dopri5"


@pytest.mark.parametrize("changes", [{}, SF2M, {"objective": {"kind": "meanflow", "spans": 1.0}}])
def test_gradients_pass_a_wrapper_for_data_parallelism(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = config(**changes)
    objective = objectives.build_objective(settings, 0)
    pairs = Batch(*torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0)), BatchRows(0, 16, 16))
    gradients = []
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        for wrapped in (False, True):
            bare = objectives.build_network(settings, (3,), 0)
            model = DistributedDataParallel(bare) if wrapped else bare
            errors, weights = objective(model, bare, drawn(objective, pairs, 0))
            (errors * weights).mean().backward()
            gradients.append([weight.grad for weight in bare.parameters()])
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(gradients[0], gradients[1])
