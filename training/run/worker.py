"""One worker of a training job, on Ray or alone: its model on its device, its part of the batches, and checkpoints."""

import importlib.util
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device, prepare_model
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.store.format import Index, Outline, read_index, read_outline
from flowpairs.training import objectives
from flowpairs.training.config import TrainConfig
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import Draw, Loader, ShardLoader
from flowpairs.training.pairs.loader_state import State
from flowpairs.training.pairs.online import OnlineLoader
from flowpairs.training.pairs.reading.order import arcs_for
from flowpairs.training.run import loop
from flowpairs.training.run.directory import RunDirectory
from flowpairs.training.run.initial_weights import load_init
from flowpairs.training.run.logbook import Logbook
from flowpairs.training.run.state import TrainState, write_checkpoint
from flowpairs.training.run.workers import WorkerShape


def train_worker(settings: dict[str, Any]) -> None:
    """Train as one worker of the job; Ray Train calls this in every worker process.

    Args:
        settings: `config`, a dump of the TrainConfig; `pairs`, the directory of the pairs; `run`, that of the run;
            `start`, a checkpoint for workers that Ray Train gives none, or None.
    """
    config, run = TrainConfig.model_validate(settings["config"]), RunDirectory(Path(settings["run"]))
    context = ray.train.get_context()
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    rank, world = context.get_world_rank(), context.get_world_size()
    if rank == 0:
        run.workers.write_text(f"{world}\n")
    given, device = ray.train.get_checkpoint(), get_device()
    with given.as_directory() if given is not None else nullcontext(settings["start"]) as start:
        _train_part(config, settings["pairs"], run, (rank, world), device, start, parallel, partial(Saver, run, rank))


def train_here(config: TrainConfig, pairs: str, run: RunDirectory, shape: WorkerShape) -> Path:
    """Train all of a run in this process, without Ray, from its newest checkpoint.

    Args:
        config: the configuration of the run.
        pairs: the directory or URL of the pairs.
        run: the directory of the run.
        shape: the threads and the GPU of this process; see `own_shape`.

    Returns:
        The last checkpoint.

    Raises:
        InputError, JobError: as for `flowpairs.training.train.train`.
    """
    threads, newest = torch.get_num_threads(), run.newest_checkpoint()
    run.snapshot.unlink(missing_ok=True)  # the list of an earlier start on Ray, which would miss what follows
    device = torch.device("cuda" if shape.gpus else "cpu")
    torch.set_num_threads(shape.cpus)
    start = run.path / newest if newest else None
    try:
        _train_part(config, pairs, run, (0, 1), device, start, compiled_alone, partial(OwnSaver, run))
    finally:
        torch.set_num_threads(threads)
    newest = run.newest_checkpoint()
    assert newest is not None
    return run.path / newest


def _train_part(
    config: TrainConfig,
    pairs: str,
    run: RunDirectory,
    part_of: tuple[int, int],
    device: torch.device,
    start: str | Path | None,
    wrap: Callable[[nn.Module, TrainConfig, bool], nn.Module],
    saver: Callable[[TrainState], Callable[[dict[str, float]], None]],
) -> None:
    """Train on one worker's part of the batches.

    Args:
        config: the configuration of the run.
        pairs: the directory or URL of the pairs.
        run: the directory of the run; its first worker writes the log.
        part_of: the rank of the worker and the number of workers.
        device: the device of the network.
        start: a checkpoint to go on from; None: the beginning.
        wrap: prepares the network for the steps; see `parallel`.
        saver: makes what saves checkpoints of a state; see `Saver`.
    """
    rank, world = part_of
    outline = read_outline(pairs) if config.pairs.source == "stream" else None
    index = outline.index if outline else read_index(pairs)
    compiled = compiles(config, device)
    model = objectives.build_network(config, index.shape, index.num_classes)
    if config.train.init is not None and start is None:
        load_init(model, config.train.init)
    model = model.to(device, memory_format=memory_format(config, device))  # type: ignore[call-overload]
    state = TrainState.start(model, config.train)
    if start is not None:
        state.load(Path(start))
    arcs = arcs_for(config.train.batch, world) if state.loader is None else state.loader["arcs"]
    part = BatchPart(config.train.batch, rank, world, arcs)
    objective = objectives.build_objective(config, index.num_classes)
    draw = partial(objective.draw, shape=index.shape, on_device=device.type != "cpu")
    wrapped = wrap(state.model, config, compiled)
    with ExitStack() as stack:
        log = stack.enter_context(closing(Logbook(run.metrics, state.step))) if rank == 0 else None
        loader = stack.enter_context(open_loader(config, pairs, index, part, state.loader, outline, device, draw))
        writer = log.write if log else lambda line: None
        loop.train_loop(state, wrapped, loader, objective, config.train, writer, saver(state))


def open_loader(
    config: TrainConfig,
    pairs: str,
    index: Index,
    part: BatchPart,
    state: State | None,
    outline: Outline | None,
    device: torch.device,
    draw: Draw,
) -> Loader:
    """Open the loader of a worker's part of the batches; see `ShardLoader` and `OnlineLoader`."""
    labels, pin = config.model.conditional, device.type == "cuda"
    if config.pairs.source == "semidiscrete":
        return OnlineLoader(pairs, index, part, labels, state, str(device), pin, draw=draw)
    patience, on_device = config.pairs.patience, device.type != "cpu"
    return ShardLoader(
        pairs, index, part, config.train.seed, labels, state, pin, outline, patience, on_device=on_device, draw=draw
    )


def memory_format(config: TrainConfig, device: torch.device) -> torch.memory_format:
    """Return the order of a network's numbers in memory: a UNet on a GPU keeps the channels of a pixel together.

    MeanFlow's UNet is left out: forward-mode differentiation has every norm read its input in the other order.
    """
    together = device.type == "cuda" and config.model.kind == "unet" and config.objective.kind != "meanflow"
    return torch.channels_last if together else torch.preserve_format


def parallel(model: nn.Module, config: TrainConfig, compiled: bool) -> nn.Module:
    """Wrap a network such that the workers add up its gradients, and compile it if that is asked for.

    What is compiled is the wrapper: torch then cuts the network's graph where a bucket of gradients is full, and the
    exchange runs beside the backward pass. Buffers are constants of the network, which need no broadcast.
    """
    options = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
    wrapped = prepare_model(model, parallel_strategy_kwargs=options)
    if config.train.gradients == "bf16" and isinstance(wrapped, DistributedDataParallel):
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return compiled_alone(wrapped, config, compiled)


def compiled_alone(model: nn.Module, _: TrainConfig, compiled: bool) -> nn.Module:
    """Compile a network if that is asked for, and return it."""
    if compiled:
        model.compile(dynamic=False)
    return model


def check_gradients(config: TrainConfig, gpus: int) -> None:
    """Refuse gradients that workers with this number of GPUs each cannot add up: torch knows bf16 over NCCL alone."""
    if config.train.gradients == "bf16" and not gpus:
        raise InputError("train.gradients='bf16': workers without GPUs add them up in fp32; give that, or GPUs")


def compiles(config: TrainConfig, device: torch.device) -> bool:
    """Return whether to compile the network.

    Raises:
        InputError: it is to be compiled, and this node lacks what that needs.
    """
    asked = config.train.compile
    if not asked or (asked == "auto" and (device.type != "cuda" or config.objective.kind == "meanflow")):
        return False
    where = f"train.compile={asked if asked == 'auto' else 'true'}"
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise InputError(f"{where}: this node has no C++ compiler; install g++ there or give false")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise InputError(f"{where}: this node has no Triton; install it beside torch there or give false")
    return True


class Saver:
    """Reports a run's checkpoints to Ray Train, which notes one when it is written; the steps go on meanwhile.

    Rank 0 copies the state and a thread of Ray Train's writes the copy, straight into the run's directory. A process
    that is killed before the note leaves a file that nobody reads, and the run goes on from the checkpoint before.

    Args:
        run: the directory of the run.
        rank: the rank of this worker; all of them call at the same steps.
        state: the state of the run.
    """

    def __init__(self, run: RunDirectory, rank: int, state: TrainState) -> None:
        self._state, self._run, self._rank = state, run, rank
        self._written = threading.Event()
        self._written.set()

    def __call__(self, metrics: dict[str, float]) -> None:
        """Report the state as it is now. A call waits until the one before is written: there is one copy at most."""
        if self._rank:
            ray.train.report(metrics, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
            return
        self._written.wait()
        self._written.clear()
        tree = self._state.tree()
        arrived = torch.cuda.Event() if torch.cuda.is_available() else None
        if arrived is not None:
            arrived.record()

        path = self._run.checkpoint(self._state.step)

        def write(_: Checkpoint, name: str) -> Checkpoint:
            try:
                if arrived is not None:
                    arrived.synchronize()
                write_checkpoint(tree, path)
            finally:
                self._written.set()
            return Checkpoint.from_directory(path)

        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(self._run.checkpoints),
            checkpoint_dir_name=path.name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=write,
        )


class OwnSaver:
    """Writes a run's checkpoints between the steps, without Ray, and keeps the newest ones.

    Args:
        run: the directory of the run.
        state: the state of the run.
    """

    def __init__(self, run: RunDirectory, state: TrainState) -> None:
        self._run, self._state = run, state

    def __call__(self, metrics: dict[str, float]) -> None:
        """Write the state as it is now."""
        tree = self._state.tree()
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # until the copies have arrived
        write_checkpoint(tree, self._run.checkpoint(self._state.step))
        self._run.keep_newest()
