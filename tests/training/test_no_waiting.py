"""A step never waits for its device: it runs on torch's meta device, on which every read of a value raises."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from support.runs import DIT, MEANFLOW, MLP, SF2M, UNET
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowpairs.pipeline.config import validate
from flowpairs.training import objectives
from flowpairs.training.config import TrainConfig
from flowpairs.training.pairs.batch import Batch, BatchRows, StoredBatch
from flowpairs.training.pairs.loader_state import State
from flowpairs.training.run import loop
from flowpairs.training.run.state import TrainState

META, ROWS, SHAPE = torch.device("meta"), BatchRows(0, 8, 8), (3, 8, 8)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mlp": (MLP, {}),
    "unet, noisy path": (UNET, {"path": {"kind": "cfm", "sigma": 0.1}}),
    "dit, adaptive": (DIT, {"loss": {"adaptive": 0.5}}),
    "sf2m": (MLP, SF2M),
    "meanflow": (MLP, MEANFLOW),
}


class Copies(TorchDispatchMode):
    """Notes the copies from the host to another device that the host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in args if isinstance(x, Tensor)]
        if func is torch.ops.aten._to_copy.default and tensors[0].device.type == "cpu" and out.device == META:
            self.count += 1
            if not kwargs.get("non_blocking"):
                self.waiting.append(f"{func} of {list(tensors[0].shape)}")
        return out


class Given:
    """A loader of the same batch, of which a run takes three."""

    waited = 0.0

    def __init__(self, batches: Iterator[Batch | StoredBatch]) -> None:
        self._batches = batches

    def __next__(self) -> Batch | StoredBatch:
        return next(self._batches)

    def state(self) -> State:
        return {}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_no_step_reads_a_value_from_its_device_or_waits_for_a_copy(name: str, stored: bool, accumulate: int) -> None:
    model, changes = CASES[name]
    tree = {"pairs": {"dir": "pairs"}, "output": {"dir": "run"}, "model": model | {"conditional": True}}
    tree |= {"train": {"steps": 9, "batch": 8, "accumulate": accumulate, "label_dropout": 0.2}} | changes
    settings = validate(TrainConfig, tree)
    state = TrainState.start(objectives.build_network(settings, SHAPE, 3).to(META), settings.train)
    state.optimiser = torch.optim.AdamW(state.model.parameters(), foreach=True)  # meta knows no fused one
    objective = objectives.build_objective(settings, 3)
    draw = partial(objective.draw, shape=SHAPE, on_device=True)
    label = torch.zeros(8, dtype=torch.int64)

    def batches() -> Iterator[Batch | StoredBatch]:
        for step in range(3):
            if stored:
                ids = {"rows": torch.arange(8), "seed": torch.zeros(8, dtype=torch.int64), "label": label}
                x1 = torch.zeros((8, *SHAPE), dtype=torch.uint8)
                yield StoredBatch(ROWS, ids | {"stored_x1": x1}, draw(step, ROWS))
            else:
                yield Batch(torch.zeros(8, *SHAPE), torch.zeros(8, *SHAPE), ROWS, label, drawn=draw(step, ROWS))

    with Copies() as copies, pytest.raises(StopIteration):
        loop.train_loop(state, state.model, Given(batches()), objective, settings.train, print, print)  # type: ignore
    assert state.step == 3
    assert copies.count >= 3 * 4  # of x0 or its rows, x1, label, t
    assert copies.waiting == []


def test_the_meta_device_would_tell() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros(3, device=META).sum().item()
    with Copies() as copies:
        torch.zeros(3).to(META)
    assert len(copies.waiting) == 1
