"""A coupling job and a training job at once on one cluster: two processes, each of which runs the ordinary command.

Both get sizes with which they fit side by side, whichever Ray starts first. Both resume when the same command is run
again, and neither result depends on the speed of the other job: the first epoch reads the blocks in their order.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from flowpairs.jobs._children import Child, Children
from flowpairs.jobs.stream_config import StreamConfig
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.config import CoupleConfig, save
from flowpairs.pipeline.couple import check_inputs
from flowpairs.pipeline.store import resume
from flowpairs.pipeline.store.format import has_outline

if TYPE_CHECKING:
    from flowpairs.pipeline.cluster.shapes import ActorShape
    from flowpairs.training.run.workers import WorkerShape


def stream(config: StreamConfig) -> None:
    """Couple and train until both are done; if one job is done already, the other one gets the whole cluster.

    Raises:
        InputError: one of the jobs raised it; the message has the name of the job, and the other job has been ended.
        JobError: likewise.
    """
    with _of("couple"):
        coupled = check_couplings(config.couple)
    with _of("train"):
        trained = check_training(config)
    if coupled:
        from flowpairs.training.train import train

        train(config.train)
    elif trained:
        from flowpairs import PairStore

        PairStore.of(config.couple).couple()
    else:
        _run_both(config)


def check_couplings(config: CoupleConfig) -> bool:
    """Check the coupling job before Ray is started, as `flowpairs couple` does; return whether it is complete."""
    if resume.find_complete(config, as_path(config.output.dir)):
        return True
    check_inputs(config)
    return False


def check_training(config: StreamConfig) -> bool:
    """Check the training job before Ray is started; return whether the run is finished.

    Without an outline of the pair store, which the coupling job writes first, little is known about the pairs; then
    only the numbers and the output directory are checked.
    """
    from flowpairs.training.run import directory
    from flowpairs.training.run.initial_weights import pin_init

    if has_outline(config.couple.output.dir):
        directory.check_run(pin_init(config.train))
        return directory.RunDirectory(Path(config.train.output.dir)).summary() is not None
    directory.check_numbers(config.train, config.couple.output.pairs)
    directory.check_output(config.train)
    return False


def _run_both(config: StreamConfig) -> None:
    """Join or start Ray, choose the numbers that are `auto`, and run the two commands until both are done."""
    import ray

    from flowpairs.pipeline.cluster.connect import connect
    from flowpairs.training.run import directory
    from flowpairs.training.run.sharing import share_nodes
    from flowpairs.training.run.workers import live_nodes

    asked = config.train.cluster
    cores = 1.0 if asked.cpus == "auto" else float(asked.cpus)
    bundle = {"CPU": cores} | ({"GPU": 1.0} if asked.gpus == 1 else {})
    connect(config.couple.cluster, [bundle] * asked.workers if isinstance(asked.workers, int) else [])
    blocks = -(-config.couple.output.pairs // config.couple.coupling.n)
    workers, actors = share_nodes(live_nodes(), asked, config.couple.cluster, blocks)
    with _of("train"):
        directory.check_workers(config.train, workers.workers)
    parts = with_numbers(config, workers, actors)
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with TemporaryDirectory(prefix="flowpairs-") as temporary, Children() as children:

        def start(name: str, module: str) -> Child:
            path = Path(temporary) / f"{name}.yaml"
            save(getattr(parts, name), path, f"flowpairs stream: {name}")
            command = [sys.executable, "-m", "flowpairs.jobs._children", module, name, str(path)]
            return children.start(name, command, environment)

        start("couple", "flowpairs.pipeline.couple").go()
        training = start("train", "flowpairs.training.train")
        children.wait(lambda: has_outline(config.couple.output.dir))
        training.go()
        children.wait()


def with_numbers(config: StreamConfig, workers: "WorkerShape", actors: "ActorShape") -> StreamConfig:
    """Replace `auto` by the given sizes, and drop the request for nodes, which has been made already."""
    couple, train = config.couple, config.train
    ours = {"actors": actors.actors, "cpus_per_actor": actors.cpus, "gpus_per_actor": actors.gpus, "scale_seconds": 0.0}
    theirs = {"workers": workers.workers, "cpus": workers.cpus, "gpus": workers.gpus}
    return config.model_copy(
        update={
            "couple": couple.model_copy(update={"cluster": couple.cluster.model_copy(update=ours)}),
            "train": train.model_copy(update={"cluster": train.cluster.model_copy(update=theirs)}),
        }
    )


@contextmanager
def _of(name: str) -> Iterator[None]:
    """Put the name of the job in front of the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
