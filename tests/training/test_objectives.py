"""Objectives as plain formulas: errors, weights and dropped labels, the same over any number of workers."""

from typing import Any

import pytest
import torch
from support.runs import drawn
from torch import Tensor, nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import digest, validate
from flowpairs.training.config import LossConfig, TrainConfig
from flowpairs.training.objectives.objective import (
    MeanFlow,
    Objective,
    VelocityAndScore,
    build_network,
    build_objective,
)
from flowpairs.training.objectives.probability_paths import Bridge, Straight
from flowpairs.training.objectives.randomness import Purpose, normals, step_uniforms
from flowpairs.training.pairs.batch import Batch, BatchPart, BatchRows

OBJECTIVES: dict[str, dict[str, Any]] = {
    "default": {},
    "i-cfm": {"path": {"sigma": 0.1}, "times": {"kind": "logit-normal"}, "loss": {"adaptive": 0.5}},
    "fm": {"path": {"kind": "fm"}},
    "vp": {"path": {"kind": "vp"}},
    "sb": {"path": {"kind": "sb", "sigma": 0.5}, "loss": {"time": "bridge"}},
    "sf2m": {"path": {"kind": "sb", "sigma": 0.5}, "objective": {"kind": "sf2m"}},
    "meanflow": {"objective": {"kind": "meanflow"}, "loss": {"adaptive": 1.0}},
}


def config(**changes: Any) -> TrainConfig:
    plain = {
        "pairs": {"dir": "pairs"},
        "model": {"kind": "mlp", "width": 16, "depth": 1, "conditional": True},
        "train": {"steps": 10, "label_dropout": 0.3, "seed": 7},
        "output": {"dir": "run"},
    }
    for key, value in changes.items():
        plain[key] = {**plain.get(key, {}), **value}
    return validate(TrainConfig, plain)


def batch(n: int, d: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(2, n, d, generator=generator)
    label, weight = torch.randint(4, (n,), generator=generator), torch.rand(n, generator=generator)
    return Batch(x0, x1, BatchRows(0, n, n), label, weight)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_errors_and_weights_do_not_depend_on_the_number_of_workers(name: str) -> None:
    settings = config(**OBJECTIVES[name])
    objective, model, whole = build_objective(settings, 4), build_network(settings, (3,), 4), batch(24)
    alone = objective(model, model, drawn(objective, whole, 5))
    for world in (2, 3):
        parts = []
        for rank in range(world):
            mine = whole.split(world)[rank]
            assert mine.rows == BatchPart(24, rank, world, 4).rows
            parts.append(objective(model, model, drawn(objective, mine, 5)))
        for ours, theirs in zip(zip(*parts, strict=True), alone, strict=True):
            torch.testing.assert_close(torch.cat(ours), theirs, rtol=1e-5, atol=1e-6)
    assert not torch.equal(objective(model, model, drawn(objective, whole, 6))[0], alone[0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_weight_learns(name: str) -> None:
    """Also the labels' vectors, and that of the hidden ones."""
    settings = config(**OBJECTIVES[name], train={"label_dropout": 0.5})
    objective, model = build_objective(settings, 4), build_network(settings, (3,), 4)
    errors, weights = objective(model, model, drawn(objective, batch(64), 0))
    (errors * weights).mean().backward()
    assert [key for key, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


class Zero(nn.Module):
    """Answers 0, so that the error is the target's square."""

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


def test_weights_are_those_of_time_error_and_pairs_multiplied() -> None:
    pairs = batch(16)
    objective = Objective(1, Straight(), loss=LossConfig(time="bridge", adaptive=0.5))
    errors, weights = objective(Zero(), Zero(), drawn(objective, pairs, 2))
    t = step_uniforms(1, 2, pairs.rows, Purpose.TIMES)
    truth = ((pairs.x1 - pairs.x0) ** 2).mean(1)
    torch.testing.assert_close(errors, truth)
    assert pairs.weight is not None
    torch.testing.assert_close(weights, pairs.weight * 4 * t * (1 - t) / (truth + 1e-3).sqrt())


def test_sf2m_weighs_its_score_by_the_papers_lambda() -> None:
    """lambda = 2 sqrt(t (1 - t)) / sigma on r = sigma^2/2 score: with r the true score of the pair the error is 0."""
    sigma, pairs = 0.5, batch(16)
    objective = build_objective(config(**OBJECTIVES["sf2m"], train={"label_dropout": 0.0}), 4)
    t = 1e-3 + (1 - 2e-3) * step_uniforms(7, 2, pairs.rows, Purpose.TIMES)
    column, z = t[:, None], normals(7, 2, pairs.rows, (3,))
    mean = (1 - column) * pairs.x0 + column * pairs.x1

    class True_(nn.Module):
        def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
            return sigma**2 / 2 * (mean - x) / (sigma**2 * column * (1 - column))

    nets = VelocityAndScore(Zero(), True_())
    errors, _ = objective(nets, nets, drawn(objective, pairs, 2))
    velocity = Bridge(sigma).velocity(t, pairs.x0, pairs.x1, z)
    torch.testing.assert_close(errors, (velocity**2).mean(1), rtol=1e-3, atol=1e-3)
    errors, _ = objective(nets := VelocityAndScore(Zero(), Zero()), nets, drawn(objective, pairs, 2))
    torch.testing.assert_close(errors, (velocity**2 + z**2).mean(1), rtol=1e-3, atol=1e-3)


def test_the_asked_share_of_labels_is_hidden() -> None:
    """The model answers with its label, so that the error tells it."""

    class Label(nn.Module):
        def forward(self, t: Tensor, x: Tensor, label: Tensor) -> Tensor:
            return label[:, None].expand_as(x).float()

    zeros = torch.zeros(8000, 1)
    pairs = Batch(zeros, zeros, BatchRows(0, 8000, 8000), torch.arange(8000) % 4)
    objective = Objective(0, label_dropout=0.2, num_classes=4)
    errors, _ = objective(Label(), Label(), drawn(objective, pairs, 0))
    seen = errors.sqrt().round().long()
    assert torch.equal(seen[seen != 4], pairs.label[seen != 4])
    assert (seen == 4).float().mean().item() == pytest.approx(0.2, abs=0.015)


def test_intervals_are_ordered_and_their_share_has_a_length() -> None:
    numbers = MeanFlow(0, spans=0.25).draw(3, BatchRows(0, 8000, 8000), (2,))
    length = numbers["until"] - numbers["t"]
    assert (length >= 0).all()
    assert (length > 0).float().mean().item() == pytest.approx(0.25, abs=0.015)
    assert length[length > 0].mean().item() == pytest.approx(1 / 3, abs=0.02)  # of two uniform points


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"path": {"kind": "sb"}}, "path: kind sb is a bridge of diffusion sigma, which is 0; give sigma, or kind cfm"),
        ({"path": {"kind": "fm", "sigma": 1.0}}, "path: sigma=1.0: kind fm narrows from 1 to sigma; give one below 1"),
        ({"objective": {"kind": "sf2m"}}, "objective.kind=sf2m is of bridges, not of path.kind=cfm; give path.kind=sb"),
        ({"model": {"conditional": False}}, "train.label_dropout drops labels that the model does not see"),
        ({"times": {"mean": 1.0}}, "times: mean and std belong to kind logit-normal, not to uniform; remove them"),
        ({"path": {"kind": "ot"}}, "path.kind='ot'"),
        (
            {"objective": {"kind": "meanflow"}, "train": {"compile": True}},
            "train.compile does not know the derivatives of objective.kind=meanflow; remove it",
        ),
        ({"objective": {"kind": "meanflow", "spans": 2}}, "objective.spans=2: input should be less than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        config(**changes)
    assert sentence in str(error.value)


def test_the_hash_covers_what_determines_the_weights_and_nothing_else() -> None:
    base = config().determining()
    assert sorted(base) == ["loss", "model", "objective", "pairs", "path", "times", "train"]
    for same in ({"log_every": 7}, {"checkpoint_every": 7}, {"accumulate": 2}, {"compile": True}):
        assert digest(config(train=same).determining()) == digest(base)
    for other in ({"train": {"lr": 0.5}}, {"train": {"seed": 5}}, {"loss": {"adaptive": 0.5}}, OBJECTIVES["sf2m"]):
        assert digest(config(**other).determining()) != digest(base)
