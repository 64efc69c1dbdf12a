"""The optimiser's keys: AdamW's, the learning rate's schedule and the average's warm-up, against torch's own."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.stores import write_store
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import validate
from flowpairs.pipeline.store.format import read_index
from flowpairs.training import models
from flowpairs.training.config import MLPConfig, OptimisationConfig, TrainConfig
from flowpairs.training.objectives.objective import Objective
from flowpairs.training.objectives.randomness import Purpose, step_uniforms
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.run.directory import check_run, prepare_run
from flowpairs.training.run.loop import learning_rate, train_loop
from flowpairs.training.run.state import TrainState


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x0 = torch.randn(512, 2, generator=torch.Generator().manual_seed(0)).numpy()
    store = tmp_path_factory.mktemp("schedules") / "store"
    write_store(store, x0, 2 * x0 + 1)
    return store


def scheduler(config: OptimisationConfig, optimiser: torch.optim.Optimizer) -> LRScheduler:
    assert config.decay_steps is not None
    length = config.decay_steps - config.warmup
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimiser, length, config.lr_end)
    return LinearLR(optimiser, 1.0, config.lr_end / config.lr, length)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("lr_end", [0.0, 1e-4])
def test_a_falling_rate_is_torchs_scheduler_after_the_warm_up(schedule: str, lr_end: float) -> None:
    config = OptimisationConfig.model_validate(
        {"steps": 60, "lr": 2e-3, "warmup": 10, "schedule": schedule, "decay_steps": 50, "lr_end": lr_end}
    )
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.lr)
    truth, falling = [], scheduler(config, optimiser)
    for _ in range(41):
        truth.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        falling.step()
    assert [learning_rate(config, step) for step in range(10, 51)] == pytest.approx(truth, abs=1e-12)
    assert [learning_rate(config, step) for step in range(10)] == pytest.approx([2e-4 * k for k in range(1, 11)])
    assert learning_rate(config, 59) == lr_end


def trained(store: Path, config: OptimisationConfig, *, stop: int | None = None, resume: Path | None = None) -> Any:
    state = TrainState.start(models.build_model(MLPConfig(kind="mlp", width=16, depth=1), (2,), 0, 0), config)
    if resume:
        state.load(resume)
    objective, part = Objective(config.seed), BatchPart(config.batch, 0, 1, 4)
    draw = partial(objective.draw, shape=(2,))
    until = config.model_copy(update={"steps": stop or config.steps})
    with ShardLoader(store, read_index(store), part, 0, state=state.loader, draw=draw) as loader:
        train_loop(state, state.model, loader, objective, until, lambda line: None, lambda metrics: None)
    return state


KEYS: dict[str, Any] = {"lr": 1e-2, "warmup": 3, "clip": 100.0, "ema": 0.9, "ema_warmup": 5}
KEYS |= {"schedule": "cosine", "decay_steps": 40, "lr_end": 1e-3, "weight_decay": 0.3, "betas": (0.8, 0.95)}


def test_a_run_is_a_plain_loop_with_torchs_optimiser(store: Path) -> None:
    config = OptimisationConfig(steps=12, batch=64, **KEYS)
    state = trained(store, config)
    net = models.build_model(MLPConfig(kind="mlp", width=16, depth=1), (2,), 0, 0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2, betas=(0.8, 0.95), weight_decay=0.3)
    falling, average = scheduler(config, optimiser), [weight.detach().clone() for weight in net.parameters()]
    with ShardLoader(store, read_index(store), BatchPart(64, 0, 1, 4), 0) as loader:
        for step in range(12):
            batch = next(loader)
            t = step_uniforms(0, step, batch.rows, Purpose.TIMES)
            x = (1 - t[:, None]) * batch.x0 + t[:, None] * batch.x1
            optimiser.zero_grad()
            (net(t, x) - (batch.x1 - batch.x0)).square().mean().backward()
            if step < 3:
                optimiser.param_groups[0]["lr"] = 1e-2 * (step + 1) / 3
            optimiser.step()
            if step >= 3:
                falling.step()
            if step == 2:
                optimiser.param_groups[0]["lr"] = 1e-2
            kept = 0.0 if step == 0 else min(0.9, (1 + step) / (5 + step))
            average = [kept * a + (1 - kept) * w.detach() for a, w in zip(average, net.parameters(), strict=True)]
    for ours, theirs in zip(state.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for ours, truth in zip(state.ema.parameters(), average, strict=True):
        torch.testing.assert_close(ours.detach(), truth, rtol=1e-4, atol=1e-6)


def test_a_run_that_grows_below_its_falling_rate_is_one_that_was_long_from_the_start(
    store: Path, tmp_path: Path
) -> None:
    """Bit for bit: rate and decay follow from the step, and a checkpoint holds neither."""
    whole = trained(store, OptimisationConfig(steps=30, batch=64, **KEYS))
    trained(store, OptimisationConfig(steps=15, batch=64, **KEYS)).save(tmp_path)
    grown = trained(store, OptimisationConfig(steps=30, batch=64, **KEYS), resume=tmp_path)
    for ours, theirs in ((grown.model, whole.model), (grown.ema, whole.ema)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name


def config(store: Path, out: Path, **train: Any) -> TrainConfig:
    tree = {"pairs": {"dir": str(store)}, "model": {"kind": "mlp"}, "output": {"dir": str(out)}}
    return validate(TrainConfig, tree | {"train": {"batch": 16, "warmup": 5} | train})


def test_the_step_at_which_a_rate_has_fallen_stays_what_it_was(store: Path, tmp_path: Path) -> None:
    """So more steps are the run that was as long from the start, or are refused with what differs."""
    settings, _ = check_run(config(store, tmp_path, steps=100, schedule="cosine"))
    assert settings.train.decay_steps == 100
    prepare_run(settings).metrics.write_text('{"step": 1}\n')
    with pytest.raises(InputError, match=r"train.decay_steps \(100 there, 200 here\)"):
        check_run(config(store, tmp_path, steps=200, schedule="cosine"))
    longer, _ = check_run(config(store, tmp_path, steps=200, schedule="cosine", decay_steps=100))
    assert learning_rate(longer.train, 150) == 0.0
    assert learning_rate(longer.train, 50) == learning_rate(settings.train, 50)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"decay_steps": 50}, r"train: decay_steps and lr_end belong to schedule linear and cosine"),
        ({"lr_end": 1e-5}, r"train: decay_steps and lr_end belong to schedule linear and cosine"),
        ({"schedule": "cosine", "decay_steps": 5}, r"train: decay_steps=5: the rate falls from warmup=5 to there"),
        ({"schedule": "linear", "lr_end": 1.0}, r"train: lr_end=1.0: above lr=0.001"),
        ({"betas": [0.9, 1.0]}, r"train.betas=1.0: input should be less than 1"),
        ({"betas": [0.9]}, r"train.betas"),
        ({"weight_decay": -1}, r"train.weight_decay=-1: .* greater than or equal to 0"),
        ({"schedule": "step"}, r"train.schedule='step'"),
        ({"gradients": "fp8"}, r"train.gradients='fp8'"),
        ({"ema_warmup": -1}, r"train.ema_warmup=-1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        config(tmp_path, tmp_path, steps=100, **given)
