"""The request of `flowpairs submit`, checked as far as possible without the files of the cluster."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowpairs.jobs.options import Command
from flowpairs.jobs.stream_config import StreamConfig
from flowpairs.pipeline.base.paths import refuse_relative
from flowpairs.pipeline.config import CoupleConfig, Strict, check_cost, from_overrides, leaves, load
from flowpairs.training.config import EvaluateConfig, TrainConfig

CONFIGS: dict[str, type[Strict]] = {
    "couple": CoupleConfig,
    "plan": CoupleConfig,
    "train": TrainConfig,
    "stream": StreamConfig,
}
# Keys of a config whose values are paths or URLs, and those of an evaluation.
LOCATIONS = ("dir", "path", "table", "start", "matrix", "condition_file", "init", "run")
EVALUATED = ("data", "source", "features")
EMBEDDED = "digits"  # the name of the embedded data set, which has no path


@dataclass(frozen=True)
class Request:
    """A command that can be run on a cluster.

    Attributes:
        command: the flowpairs command.
        config: the resolved config, which is shipped; None for a command that takes a directory instead.
        arguments: the rest of the command line.
        subject: the first output of the job, the directory that it reads, or the config that it plans, for its name.
        outputs: the directories or URLs that the job writes to.
    """

    command: Command
    config: Strict | None
    arguments: list[str]
    subject: str
    outputs: tuple[str, ...]


def request(command: Command, subject: str, overrides: list[str] | None, options: Sequence[str] = ()) -> Request:
    """Check a command line before anything is shipped.

    Args:
        command: the command to run.
        subject: the YAML config on this machine; for `evaluate`, `status` and `verify`, the directory on the cluster.
        overrides: the overrides `key.sub=value`.
        options: the command's own options, as in `--extend`.

    Raises:
        InputError: the command would refuse the config, or a path is relative: it would lie in the working directory
            of the job, which holds the code only and is deleted.
    """
    if command in ("evaluate", "status", "verify"):
        refuse_relative("", subject)
        if command == "evaluate":
            given = from_overrides(EvaluateConfig, overrides).model_dump(include=set(EVALUATED))
            for key, value in given.items():
                if value not in (None, "pca", "inception"):
                    refuse_relative(f"{key}=", value)
        directory = subject.rstrip("/")
        written = (directory,) if command == "evaluate" else ()
        return Request(command, None, [directory, *(overrides or []), *options], directory, written)
    config = load(CONFIGS[command], subject, overrides)
    for part in (config, getattr(config, "couple", None)):
        if isinstance(part, CoupleConfig):
            check_cost(part)  # imports the module, whose path is needed to ship it
    tree = config.model_dump(mode="json")
    for key, value in leaves(tree):
        if key.rpartition(".")[2] in LOCATIONS and isinstance(value, str) and value != EMBEDDED:
            refuse_relative(f"{key}=", value)
    if command == "plan":
        return Request(command, config, [*options], subject, ())
    parts = [tree["couple"], tree["train"]] if command == "stream" else [tree]
    outputs = [part["output"]["dir"].rstrip("/") for part in parts]
    return Request(command, config, [*options], outputs[0], tuple(outputs))
