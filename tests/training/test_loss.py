"""The public loss against its formulas, differentiated by torch; and that its optimum is the flow."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from flowpairs.training.objectives.loss import flow_matching_loss

SIGMA = 0.3
FORMULAS = {
    "cfm": lambda t, x0, x1, z: (1 - t) * x0 + t * x1 + SIGMA * z,
    "vp": lambda t, x0, x1, z: torch.cos(math.pi * t / 2) * x0 + torch.sin(math.pi * t / 2) * x1 + SIGMA * z,
    "sb": lambda t, x0, x1, z: (1 - t) * x0 + t * x1 + SIGMA * (t * (1 - t)).sqrt() * z,
    "fm": lambda t, x0, x1, z: t * x1 + (1 - (1 - SIGMA) * t) * z,
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_pairs(count: int = 50, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x0, x1 = torch.randn(2, count, 2, 3, generator=seeded(0), dtype=dtype)
    return x0, x1


@pytest.mark.parametrize("path", FORMULAS)
def test_it_is_the_error_of_the_paths_time_derivative(path: str) -> None:
    x0, x1 = some_pairs()
    weight = torch.rand(50, generator=seeded(1), dtype=torch.float64)
    seen = []

    def model(t: Tensor, x: Tensor) -> Tensor:
        seen.append((t, x))
        return 0.5 * x

    loss = flow_matching_loss(model, {"x0": x0, "x1": x1, "weight": weight}, path, sigma=SIGMA, generator=seeded(2))
    (t, x), drawn = seen[0], seeded(2)
    u = torch.rand(50, generator=drawn, dtype=torch.float64)
    z = torch.randn(50, 2, 3, generator=drawn, dtype=torch.float64)
    torch.testing.assert_close(t, 1e-3 + (1 - 2e-3) * u if path == "sb" else u)
    column = t[:, None, None]
    point, rate = torch.func.jvp(lambda t: FORMULAS[path](t, x0, x1, z), (column,), (torch.ones_like(column),))
    torch.testing.assert_close(x, point)
    torch.testing.assert_close(loss, (weight * ((0.5 * x - rate) ** 2).mean((1, 2))).mean())


def test_the_flow_of_pairs_that_do_not_cross_has_no_error() -> None:
    """x1 = 3 x0: the point x at t comes from x / (1 + 2 t), so its velocity is 2 x / (1 + 2 t)."""
    x0 = some_pairs()[0]
    pairs = {"x0": x0, "x1": 3 * x0}
    assert flow_matching_loss(lambda t, x: 2 * x / (1 + 2 * t)[:, None, None], pairs).item() < 1e-25
    assert flow_matching_loss(lambda t, x: 2 * x, pairs).item() > 0.1


def test_times_are_uniform_and_gradients_flow() -> None:
    x0, x1 = some_pairs(4000, torch.float32)
    bias = torch.zeros(1, requires_grad=True)
    seen = []

    def model(t: Tensor, x: Tensor) -> Tensor:
        seen.append(t)
        return bias.expand_as(x)

    flow_matching_loss(model, {"x0": x0, "x1": x1}).backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, -2 * (x1 - x0).mean()[None], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[0].sort()[0], torch.linspace(0, 1, 4000), rtol=0, atol=0.04)


def test_a_label_is_handed_to_the_model() -> None:
    x0, x1 = some_pairs()
    label = torch.arange(50)
    seen = []

    def model(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
        seen.append(label)
        return x

    flow_matching_loss(model, {"x0": x0, "x1": x1, "label": torch.zeros(50)}, label=label)
    assert torch.equal(seen[0], label)


def test_pairs_with_spans_are_led_from_and_to_their_times() -> None:
    x0, x1 = some_pairs()
    span = torch.tensor([[0.0, 0.25], [0.25, 1.0]] * 25, dtype=torch.float64)
    seen = []

    def model(t: Tensor, x: Tensor) -> Tensor:
        seen.append((t, x))
        return torch.zeros_like(x)

    loss = flow_matching_loss(model, {"x0": x0, "x1": x1, "span": span})
    t, x = seen[0]
    assert ((t >= span[:, 0]) & (t <= span[:, 1])).all()
    length = span[:, 1] - span[:, 0]
    torch.testing.assert_close(x, torch.lerp(x0, x1, ((t - span[:, 0]) / length)[:, None, None]))
    torch.testing.assert_close(loss, (((x1 - x0) / length[:, None, None]) ** 2).mean())


def test_numpy_pairs_by_attribute_do_as_well() -> None:
    @dataclass
    class Arrays:
        x0: np.ndarray
        x1: np.ndarray

    x0, x1 = some_pairs()
    by_attribute = flow_matching_loss(lambda t, x: x, Arrays(x0.numpy(), x1.numpy()), generator=seeded(4))
    assert by_attribute == flow_matching_loss(lambda t, x: x, {"x0": x0, "x1": x1}, generator=seeded(4))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"path": "ot"}, "path='ot': no such path; give cfm, fm, sb, vp"),
        ({"path": "sb"}, r"sigma=0\.0: kind sb is a bridge of diffusion sigma"),
        ({"sigma": -1.0}, r"sigma=-1\.0: Input should be greater than or equal to 0"),
        ({"batch": {"x0": torch.zeros(3, 2)}}, r"batch: x0 and x1 have the shapes \[3, 2\] and None"),
        ({"batch": {"x0": torch.zeros(3, 2), "x1": torch.zeros(3, 1)}}, "batch: x0 and x1 have the shapes"),
        ({"model": lambda t, x: x[..., :1]}, r"model: answers \[50, 2, 1\] where x is \[50, 2, 3\]"),
    ],
)
def test_mistakes_are_one_sentence(options: dict, sentence: str) -> None:
    x0, x1 = some_pairs()
    given = {"model": lambda t, x: x, "batch": {"x0": x0, "x1": x1}} | options
    with pytest.raises(ValueError, match=f"^{sentence}"):
        flow_matching_loss(**given)
