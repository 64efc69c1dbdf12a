"""What a worker decides before its first step: compilation, and the order of a UNet's numbers in memory."""

import importlib.util
import shutil
from typing import Any

import pytest
import torch
from support.runs import DIT, MEANFLOW, MLP, UNET

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import validate
from flowpairs.training import objectives
from flowpairs.training.config import TrainConfig
from flowpairs.training.run.state import TrainState
from flowpairs.training.run.worker import check_gradients, compiles, memory_format

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def config(model: dict[str, Any] = MLP, compile: Any = "auto", **changes: Any) -> TrainConfig:
    tree = {"pairs": {"dir": "pairs"}, "model": model, "output": {"dir": "run"}}
    return validate(TrainConfig, tree | {"train": {"steps": 100, "compile": compile}} | changes)


def test_auto_compiles_on_gpus_and_not_meanflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert compiles(config(), CUDA)
    assert not compiles(config(), CPU)
    assert not compiles(config(**MEANFLOW), CUDA)
    assert not compiles(config(compile=False), CUDA)
    assert compiles(config(compile=True), CPU)


def test_a_node_that_cannot_compile_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for compile, device in (("auto", CUDA), (True, CPU)):
        named = str(compile).lower()
        with pytest.raises(
            InputError, match=rf"^train.compile={named}: this node has no C\+\+ compiler; install g\+\+"
        ):
            compiles(config(compile=compile), device)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^train.compile=auto: this node has no Triton"):
        compiles(config(), CUDA)


def test_gradients_in_bf16_are_refused_without_gpus() -> None:
    """torch's own hook would end the workers: it asks for NCCL."""
    settings = config()
    narrow = settings.model_copy(update={"train": settings.train.model_copy(update={"gradients": "bf16"})})
    with pytest.raises(InputError, match=r"^train.gradients='bf16': workers without GPUs add them up in fp32"):
        check_gradients(narrow, 0)
    check_gradients(narrow, 1)
    check_gradients(settings, 0)


def test_unets_on_gpus_keep_the_channels_of_a_pixel_together() -> None:
    assert memory_format(config(UNET), CUDA) == torch.channels_last
    for settings, device in ((config(UNET), CPU), (config(DIT), CUDA), (config(UNET, **MEANFLOW), CUDA)):
        assert memory_format(settings, device) == torch.preserve_format


def test_a_unet_in_that_order_learns_the_same_and_is_saved_in_it(tmp_path: Any) -> None:
    """Steps, average and optimiser; its checkpoint is read by one in the usual order."""
    settings, states, gradients = config(UNET), [], []
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for order in (torch.preserve_format, torch.channels_last):
        model = objectives.build_network(settings, (3, 8, 8), 0).to(memory_format=order)  # type: ignore[call-overload]
        state = TrainState.start(model, settings.train)
        for _ in range(3):
            state.optimiser.zero_grad()
            state.model(torch.full((4,), 0.5), x).square().mean().backward()
            gradients.append([weight.grad.clone() for weight in state.model.parameters() if weight.grad is not None])
            state.optimiser.step()
            state.average(settings.train)
            state.step += 1
        states.append(state)
    torch.testing.assert_close(gradients[3], gradients[0], rtol=1e-3, atol=1e-5)
    assert states[1].model.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
    states[1].save(tmp_path)
    states.append(TrainState.start(objectives.build_network(settings, (3, 8, 8), 0), settings.train))
    states[2].load(tmp_path)
    for name, value in states[1].ema.state_dict().items():
        assert torch.equal(states[2].ema.state_dict()[name], value)
