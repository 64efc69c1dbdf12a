"""Trainings of the demo with their evaluations: each in a process of one thread, as many at once as there are cores.

    python -m flowpairs.jobs._demo_runs TRAINING.yaml EVALUATION.yaml

trains and evaluates one flow, and ends with the process that started it.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from flowpairs.jobs._children import Children, heed_interrupts, wait_for_go

if TYPE_CHECKING:
    from flowpairs.training.config import EvaluateConfig, TrainConfig


def train_all(trainings: Sequence["TrainConfig"], evaluation: "EvaluateConfig") -> None:
    """Train flows and evaluate them; one that is finished and evaluated is left as it is.

    Args:
        trainings: the configurations of the trainings. One on Ray takes the machine alone.
        evaluation: the configuration of all evaluations.

    Raises:
        InputError, JobError: the first that one of the processes failed with; the others have been ended.
    """
    from flowpairs.pipeline.base.threads import cores
    from flowpairs.pipeline.config import save

    alone = any(training.cluster.workers != 0 for training in trainings)
    most = 1 if alone else cores()
    environment = os.environ | ({} if alone else {"OMP_NUM_THREADS": "1"})
    with TemporaryDirectory(prefix="flowpairs-") as temporary, Children() as children:
        how = Path(temporary) / "evaluation.yaml"
        save(evaluation, how, "flowpairs demo")
        for training in trainings:
            children.wait(lambda: children.running() < most)
            name = Path(training.output.dir).name
            path = Path(temporary) / f"{name}.yaml"
            save(training, path, "flowpairs demo")
            command = [sys.executable, "-m", "flowpairs.jobs._demo_runs", str(path), str(how)]
            children.start(name, command, environment).go()
        children.wait()


def train_and_evaluate(
    training: Annotated[Path, typer.Argument()], evaluation: Annotated[Path, typer.Argument()]
) -> None:
    """Train a flow and evaluate it; these are files of their configurations."""
    wait_for_go()
    from flowpairs.pipeline.config import load
    from flowpairs.training.config import EvaluateConfig, TrainConfig
    from flowpairs.training.evaluate import evaluate
    from flowpairs.training.train import train

    config = load(TrainConfig, training)
    done = Path(config.output.dir) / "evaluation.json"
    asked = load(EvaluateConfig, evaluation)
    train(config)
    if not done.is_file():
        evaluate(config.output.dir, asked)


if __name__ == "__main__":
    from flowpairs.jobs.entry import run_command

    heed_interrupts()
    run_command(train_and_evaluate)
