"""The training loop of one worker: flow matching as plain regression on pairs.

It uses neither Ray nor files: the model may be wrapped for data parallelism, batches come from an iterator, and two
functions receive the lines of the log and the checkpoints.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.config import OptimisationConfig
from flowpairs.training.objectives.objective import Objective
from flowpairs.training.pairs.loader import Loader
from flowpairs.training.run.state import TrainState


@dataclass(frozen=True)
class LogLine:
    """A line of the log: means over the steps since the previous line."""

    step: int
    loss: float  # squared error per coordinate before weights, over all workers
    grad_norm: float  # before clipping
    lr: float
    samples_per_s: float  # pairs, over all workers
    data_wait: float  # fraction of this worker's time, 0 to 1
    seconds: float  # of training so far, over all restarts


def train_loop(
    state: TrainState,
    model: nn.Module,
    loader: Loader,
    objective: Objective,
    config: OptimisationConfig,
    log: Callable[[LogLine], None],
    save: Callable[[dict[str, float]], None],
) -> None:
    """Train from `state.step` to `config.steps`.

    Args:
        state: the state of the run, advanced in place.
        model: `state.model`, or its wrapper for data parallelism.
        loader: the loader of this worker's part of the batches, which draws by `objective.draw`.
        objective: the objective of the regression.
        config: the configuration of the optimisation.
        log: called with a line every `log_every` steps and at the end.
        save: called with the last line as numbers every `checkpoint_every` steps and at the end, at the same steps on
            every worker.

    Raises:
        InputError: the loss is not finite.
    """
    device = next(state.model.parameters()).device
    narrow = uses_bf16(config.precision, device)
    autocast = torch.autocast(device.type, torch.bfloat16) if narrow else nullcontext()
    totals = torch.zeros(2, device=device)  # loss and gradient norm; read only at a log line, so the host runs ahead
    clock, logged, waited = time.perf_counter(), state.step, loader.waited
    metrics: dict[str, float] = {}
    while state.step < config.steps:
        batch = next(loader).to(device)
        state.optimiser.param_groups[0]["lr"] = learning_rate(config, state.step)
        state.optimiser.zero_grad()
        error = torch.zeros((), device=device)
        parts = batch.split(config.accumulate)
        for part in parts:
            with autocast, alone(model) if part is not parts[-1] else nullcontext():
                errors, weights = objective(model, state.model, part)
                ((errors * weights).mean() / len(parts)).backward()
            error += errors.detach().mean() / len(parts)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
        state.optimiser.step()
        state.average(config)
        totals += torch.stack([error, norm])
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


def learning_rate(config: OptimisationConfig, step: int) -> float:
    """Compute the learning rate of a step, counted from 0: a linear warm-up, then constant, or a fall to `lr_end`."""
    if step < config.warmup:
        return config.lr * ((step + 1) / config.warmup)
    if config.decay_steps is None:
        return config.lr
    gone = min(1.0, (step - config.warmup) / (config.decay_steps - config.warmup))
    left = 1 - gone if config.schedule == "linear" else (1 + math.cos(math.pi * gone)) / 2
    return config.lr_end + (config.lr - config.lr_end) * left


def alone(model: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which gradients stay on this worker, so that they are exchanged once per step."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to run the model under bf16 autocast."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def mean_over_workers(values: Tensor) -> Tensor:
    """Compute the mean of each entry over the process group, if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values = values / torch.distributed.get_world_size()
    return values
