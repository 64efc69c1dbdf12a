"""What `flowpairs submit` was asked for, checked as far as it can be without the cluster's files."""

from dataclasses import dataclass
from pathlib import Path

from flowpairs.jobs.options import Command
from flowpairs.jobs.stream_config import StreamConfig
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, Strict, check_cost, from_overrides, leaves, load
from flowpairs.training.config import EvaluateConfig, TrainConfig

CONFIGS: dict[str, type[Strict]] = {
    "couple": CoupleConfig,
    "plan": CoupleConfig,
    "train": TrainConfig,
    "stream": StreamConfig,
}
# The keys of a config that say where something lies.
LOCATIONS = ("dir", "path", "table", "start", "matrix", "condition_file")
EVALUATED = ("data", "source", "features")  # and of an evaluation
EMBEDDED = "digits"  # the data set that lies nowhere


@dataclass(frozen=True)
class Request:
    """A command that can be run on a cluster.

    Attributes:
        command: one of flowpairs' own.
        config: the resolved config, which is shipped; None of a command that takes a directory instead.
        arguments: the rest of the command line.
        subject: what the job is about: the first of what it writes to, or the config that it plans.
        outputs: the directories or URLs that it writes to.
    """

    command: Command
    config: Strict | None
    arguments: list[str]
    subject: str
    outputs: tuple[str, ...]


def request(command: Command, subject: str, overrides: list[str] | None) -> Request:
    """Check a command line before anything is shipped.

    Args:
        command: what is to be run.
        subject: the YAML config, on this machine; of `evaluate`, `status` and `verify`, the directory on the cluster.
        overrides: `key.sub=value`; of `status` and `verify`, their options.

    Raises:
        InputError: what the command itself would say of the config, or a relative path: it would lie in the job's
            working directory, which holds the code alone and is thrown away.
    """
    if command in ("evaluate", "status", "verify"):
        _refuse_relative("", subject)
        if command == "evaluate":
            given = from_overrides(EvaluateConfig, overrides).model_dump(include=set(EVALUATED))
            for key, value in given.items():
                if value not in (None, "pca", "inception"):
                    _refuse_relative(f"{key}=", value)
        directory = subject.rstrip("/")
        written = (directory,) if command == "evaluate" else ()
        return Request(command, None, [directory, *(overrides or [])], directory, written)
    config = load(CONFIGS[command], subject, overrides)
    for part in (config, getattr(config, "couple", None)):
        if isinstance(part, CoupleConfig):
            check_cost(part)  # whose module is shipped from where it was imported
    tree = config.model_dump(mode="json")
    for key, value in leaves(tree):
        if key.rpartition(".")[2] in LOCATIONS and isinstance(value, str) and value != EMBEDDED:
            _refuse_relative(f"{key}=", value)
    if command == "plan":
        return Request(command, config, [], subject, ())
    parts = [tree["couple"], tree["train"]] if command == "stream" else [tree]
    outputs = [part["output"]["dir"].rstrip("/") for part in parts]
    return Request(command, config, [], outputs[0], tuple(outputs))


def _refuse_relative(key: str, value: str) -> None:
    if "://" not in value and not Path(value).is_absolute():
        raise InputError(
            f"{key}{value!r}: relative, and a submitted job's working directory is thrown away; "
            "give an absolute path on storage that all nodes share, or a URL"
        )
