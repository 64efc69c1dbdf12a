"""Every model under the one call convention."""

import pytest
import torch
from support.models import CONFIGS, config

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.models import build_model, check_model

SHAPE = (3, 8, 12)


@pytest.mark.parametrize("name", CONFIGS)
def test_velocity_has_the_shape_of_the_data_and_every_weight_learns(name: str) -> None:
    model = build_model(config(name), SHAPE, 0, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # away from DiT's zero start, where most gradients vanish
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    x = torch.randn(5, *SHAPE, generator=generator)
    velocity = model(torch.rand(5, generator=generator), x, None)
    assert velocity.shape == x.shape
    velocity.square().mean().backward()
    still = [key for key, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A key's bias shifts all logits of a softmax alike, so it never has a gradient.
    assert all("to_k.bias" in key for key in still), still


@pytest.mark.parametrize("name", CONFIGS)
def test_samples_do_not_see_each_other(name: str) -> None:
    """The velocity of one sample is the same alone and in a batch."""
    model = build_model(config(name), SHAPE, 0, seed=0).eval()
    x, t = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 0.9, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(t, x, None)[2:3], model(t[2:3], x[2:3], None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_time_and_label_matter(name: str) -> None:
    model = build_model(config(name, conditional=True), SHAPE, 3, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        x = torch.randn(1, *SHAPE, generator=generator)
        here = model(torch.tensor([0.2]), x, torch.tensor([0]))
        assert (here - model(torch.tensor([0.7]), x, torch.tensor([0]))).abs().max() > 1e-4
        assert (here - model(torch.tensor([0.2]), x, torch.tensor([2]))).abs().max() > 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_follow_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build_model(config(name), SHAPE, 0, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = build_model(config(name), SHAPE, 0, seed=7), build_model(config(name), SHAPE, 0, seed=8)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_models_that_do_not_fit_the_data_are_refused() -> None:
    with pytest.raises(InputError, match=r"model.kind='unet': needs images \[C, H, W\].*use mlp"):
        check_model(config("unet"), (64,), 0)
    with pytest.raises(InputError, match=r"multiples of 4, but images here are 6x6"):
        check_model(config("unet", channels=[8, 8, 8]), (1, 6, 6), 0)
    with pytest.raises(InputError, match=r"multiples of 3, but images here are 8x8; use another model.patch"):
        check_model(config("dit", patch=3), (1, 8, 8), 0)
    with pytest.raises(InputError, match=r"model.heads=5: does not divide model.width=32"):
        check_model(config("dit", heads=5), SHAPE, 0)
    with pytest.raises(InputError, match=r"model.conditional=True: the pairs carry no labels"):
        check_model(config("mlp", conditional=True), (64,), 0)
