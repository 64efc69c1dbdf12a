"""The training loop of one worker: flow matching as plain regression on pairs.

It knows neither Ray nor files: the model may be wrapped for data parallelism, batches come from an iterator, and the
lines of the log and the checkpoints go to the two functions it is given.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.distributed
from jaxtyping import Float32
from torch import Tensor, nn

from pipeline.errors import InputError
from training.config import OptimisationConfig
from training.loader import PairLoader, Part
from training.paths import Path
from training.state import TrainState


@dataclass(frozen=True)
class LogLine:
    """Means over the steps since the last line."""

    step: int
    loss: float  # squared error per coordinate, over all workers
    grad_norm: float  # before clipping
    lr: float
    samples_per_s: float  # pairs, over all workers
    data_wait: float  # share of this worker's time, 0 to 1
    seconds: float  # of training so far, over all restarts


def run(
    state: TrainState,
    model: nn.Module,
    loader: PairLoader,
    path: Path,
    config: OptimisationConfig,
    part: Part,
    log: Callable[[LogLine], None],
    save: Callable[[dict[str, float]], None],
) -> None:
    """Train from `state.step` to `config.steps`.

    Args:
        state: advanced in place.
        model: `state.model`, or its wrapper for data parallelism.
        loader: of this worker's part of the batches.
        path: what is regressed on.
        config: of the optimisation.
        part: this worker's part of every global batch.
        log: gets a line every `log_every` steps and at the end.
        save: gets the last line as numbers, every `checkpoint_every` steps and at the end, the same on every worker.

    Raises:
        InputError: the loss is not finite.
    """
    device = next(state.model.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config.precision, device))
    totals = torch.zeros(2, device=device)  # loss and gradient norm; read only at a log line, so the device runs ahead
    clock, logged, waited = time.perf_counter(), state.step, loader.waited
    metrics: dict[str, float] = {}
    while state.step < config.steps:
        batch = next(loader).to(device)
        t = draw_times(config.seed, state.step, part).to(device)
        with autocast:
            predicted = model(t, path.point(t, batch.x0, batch.x1), batch.label)
        loss = nn.functional.mse_loss(predicted.float(), path.velocity(t, batch.x0, batch.x1))
        state.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
        state.optimiser.param_groups[0]["lr"] = config.lr * min(1.0, (state.step + 1) / max(1, config.warmup))
        state.optimiser.step()
        state.ema.update_parameters(state.model)
        totals += torch.stack([loss.detach(), norm])
        state.step += 1

        end = state.step == config.steps
        if end or state.step % config.log_every == 0:
            means = mean_over_workers(totals / (state.step - logged)).tolist()
            now = time.perf_counter()
            state.seconds += now - clock
            line = LogLine(
                step=state.step,
                loss=means[0],
                grad_norm=means[1],
                lr=state.optimiser.param_groups[0]["lr"],
                samples_per_s=(state.step - logged) * config.batch / (now - clock),
                data_wait=(loader.waited - waited) / (now - clock),
                seconds=state.seconds,
            )
            if not np.isfinite(line.loss):
                raise InputError(f"train.lr={config.lr}: the loss is {line.loss} at step {line.step}; lower it")
            log(line)
            metrics = asdict(line)
            totals.zero_()
            clock, logged, waited = now, state.step, loader.waited
        if end or state.step % config.checkpoint_every == 0:
            state.loader = loader.state()
            save(metrics)


def draw_times(seed: int, step: int, part: Part) -> Float32[Tensor, " b"]:
    """This worker's rows of the global batch's times, uniform on [0, 1); the whole depends on (seed, step) alone."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    times = torch.rand(part.batch, generator=torch.Generator().manual_seed(int(state)))
    return times.chunk(part.world)[part.rank]


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to run the model under bf16 autocast."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def mean_over_workers(values: Tensor) -> Tensor:
    """The mean of each entry over the process group, where there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return values
