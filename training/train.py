"""Training as a Ray Train job, or in the calling process: starts, resumes, and shows its progress.

A run resumes from its newest checkpoint when the same command is started again: Ray Train finds its own snapshot under
the same storage path. A worker that dies is replaced, and all workers continue from the newest checkpoint. With
`cluster.workers: 0` the whole run is trained in the calling process; a run may go on either way.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from flowpairs.pipeline.base.environment import made_with
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.owner import owned
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.base.printing import print_line
from flowpairs.pipeline.base.progress import progress, remaining, repeated
from flowpairs.pipeline.cluster.connect import connect
from flowpairs.pipeline.cluster.telemetry import telemetry
from flowpairs.pipeline.store.format import Index
from flowpairs.training import objectives
from flowpairs.training.config import TrainConfig
from flowpairs.training.pairs.online import SemidiscreteStore
from flowpairs.training.run import directory, trackers
from flowpairs.training.run.directory import RunDirectory
from flowpairs.training.run.initial_weights import load_init, pin_init
from flowpairs.training.run.logbook import newest_metrics, read_metrics
from flowpairs.training.run.waiting import Waiting
from flowpairs.training.run.worker import check_gradients, train_here, train_worker
from flowpairs.training.run.workers import WorkerShape, own_shape, worker_shape

FULL = errno.ENOSPC, errno.EDQUOT, errno.EROFS
MAX_FAILURES = 3  # restarts of the workers within one job; starting the job again allows three more


def train(config: TrainConfig) -> dict[str, Any]:
    """Train to the end, starting from the newest checkpoint of an earlier start if there is one.

    Args:
        config: the configuration of the run.

    Returns:
        The summary that is written to train.json.

    Raises:
        InputError: `flowpairs.training.run.directory.check_run` refuses the config, the cluster is too small, shards
            are damaged, or the loss diverges.
        JobError: workers died more than MAX_FAILURES times.
    """
    config, index = directory.check_run(pin_init(config))
    run = RunDirectory(Path(config.output.dir).absolute())
    if (done := run.summary()) is not None and done.get("steps", config.train.steps) >= config.train.steps:
        return done
    trackers.check_trackers(config.output.trackers)
    if config.train.init is not None:
        load_init(objectives.build_network(config, index.shape, index.num_classes), config.train.init)
    if config.cluster.workers == 0:
        shape = own_shape(config.cluster)
    else:
        connect()
        shape = worker_shape(config.cluster)
        directory.check_workers(config, shape.workers)
    check_gradients(config, shape.gpus)
    with owned(run.path, f"output.dir={config.output.dir!r}", "flowpairs train"):
        return _train(directory.prepare_run(config), config, index, shape)


def _train(run: RunDirectory, config: TrainConfig, index: Index, shape: WorkerShape) -> dict[str, Any]:
    """Train in a directory that this process owns; see `train`."""
    pairs = str(as_path(config.pairs.dir).absolute())
    if (
        config.pairs.source == "semidiscrete"
        and SemidiscreteStore(as_path(pairs), index).config.sampling.draw == "balanced"
    ):
        balanced = f"{pairs}: its shards use data equally often (sampling.draw=balanced), fresh noise does not"
        print_line(balanced, sys.stderr)
    with trackers.follow(config, run), show_progress(run, config.train.steps, shape):
        checkpoint = _fit(run, config, pairs, shape) if shape.workers else _here(run, config, pairs, shape)
    run.keep_newest()
    lines = read_metrics(run.metrics)
    last = lines[-1]
    seconds = np.diff([line["seconds"] for line in lines], prepend=0.0)
    summary = {
        "pairs_dir": pairs,
        "method": index.method,
        "shape": list(index.shape),
        "num_classes": index.num_classes,
        "two_sided": index.two_sided,
        "steps": last["step"],
        "loss": last["loss"],
        "seconds": last["seconds"],
        "samples_per_s": last["step"] * config.train.batch / last["seconds"],
        "data_wait": float(np.average([line["data_wait"] for line in lines], weights=seconds)),
        "checkpoint": str(checkpoint.relative_to(run.path)),
        "workers": list(shape.workers) if isinstance(shape.workers, tuple) else shape.workers,
        "batch": config.train.batch,
        "made_with": made_with(),
    }
    run.finish(summary)
    return summary


def _here(run: RunDirectory, config: TrainConfig, pairs: str, shape: WorkerShape) -> Path:
    """Train in this process, and return the last checkpoint."""
    try:
        return train_here(config, pairs, run, shape)
    except (InputError, JobError):
        raise
    except Exception as error:
        raise failed(run, f"{type(error).__name__}: {error}") from error


def _fit(run: RunDirectory, config: TrainConfig, pairs: str, shape: WorkerShape) -> Path:
    """Train on Ray Train's workers, and return the last checkpoint."""
    newest = run.newest_checkpoint()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "pairs": pairs,
            "run": str(run.path),
            "start": str(run.path / newest) if newest else None,
        },
        scaling_config=ScalingConfig(
            num_workers=shape.workers,  # type: ignore[arg-type]  # two numbers: elastic, as of its second version
            use_gpu=shape.gpus > 0,
            resources_per_worker={"CPU": shape.cpus} | ({"GPU": shape.gpus} if shape.gpus else {}),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # ray.train shows mypy the RunConfig of its first version
            name=run.checkpoints.name,
            storage_path=str(run.path),
            checkpoint_config=CheckpointConfig(num_to_keep=directory.KEPT),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[Losses(str(run.path))],  # type: ignore[list-item]  # the same first version
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    with interruptible():
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise explained(error, run) from error
    assert result.checkpoint is not None
    return Path(result.checkpoint.path)


class Losses(ray.train.UserCallback):
    """A callback that hears of workers that failed or were lost.

    It takes away the note that workers run, and ends a run at once where restarted workers would fail in the same way:
    bad input, a full disk.

    Args:
        run: the directory of the run.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise a worker's error again in Ray Train's controller, which then does not restart the workers."""
        RunDirectory(Path(self.run)).workers.unlink(missing_ok=True)
        for error in worker_exceptions.values():
            if isinstance(error, InputError | JobError):
                raise error
            if getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in str(error):
                raise JobError(
                    f"a checkpoint cannot be written ({' '.join(str(error).split())[:200]}); the newest one is kept: "
                    "make room or give write access, then run the same command again"
                ) from error


def explained(error: ray.train.TrainingFailedError, run: RunDirectory) -> Exception:
    """Turn Ray Train's error into ours: the worker's own sentence if the input was at fault, else a JobError."""
    if isinstance(refused := getattr(error, "controller_failure", None), InputError | JobError):
        return type(refused)(str(refused))
    causes = list(getattr(error, "worker_failures", {}).values()) or [error]
    return failed(run, str(causes[0]).strip().splitlines()[-1], logs=", logs are in Ray's")


def failed(run: RunDirectory, reason: str, logs: str = "") -> JobError:
    """Build the error of a training that ended early; the run's newest checkpoint is kept."""
    reason = " ".join(reason.split())
    smaller = "give train.accumulate=2 or more, or a smaller train.batch, and " if "out of memory" in reason else ""
    return JobError(f"training in {str(run.path)!r} failed: {reason}; {smaller}run the same command to resume{logs}")


@contextmanager
def interruptible() -> Iterator[None]:
    """Make Ctrl-C during Ray Train an ordinary KeyboardInterrupt, and restore the handler of SIGINT afterwards.

    Ray Train installs its own handler, which ends the run and then exits the program.
    """
    main = threading.current_thread() is threading.main_thread()
    meaning = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        if main:
            signal.signal(signal.SIGINT, meaning)


@contextmanager
def show_progress(run: RunDirectory, steps: int, shape: WorkerShape) -> Iterator[None]:
    """Show the newest line of the log, export it as gauges, and tell when workers are missing, while the job runs."""
    shown: int | None = None
    waiting = Waiting(run, shape) if shape.workers else None
    with ExitStack() as stack:
        show = stack.enter_context(progress("training", steps))
        gauges = stack.enter_context(telemetry(run.path)) if shape.workers else None

        def show_newest() -> None:
            nonlocal shown
            if waiting:
                waiting.look()
            line = newest_metrics(run.metrics)
            if line is None or line["step"] == shown:
                return
            left = remaining(float(line["step"]), float(steps), line["seconds"])
            show(
                line["step"],
                f"step {line['step']}/{steps}  loss {line['loss']:.4f}  grad {line['grad_norm']:.3f}  "
                f"{line['samples_per_s']:,.0f} pairs/s  data wait {100 * line['data_wait']:.1f} %  left {left}",
            )
            if gauges:
                gauges.set(
                    train_step=line["step"],
                    train_steps_left=steps - line["step"],
                    train_loss=line["loss"],
                    train_pairs_per_second=line["samples_per_s"],
                    train_data_wait_ratio=line["data_wait"],
                )
            shown = line["step"]

        try:
            with repeated(show_newest):
                yield
        finally:
            if waiting:
                waiting.close()
