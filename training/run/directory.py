"""The directory of a training run: its files, and checks whether a run may start, may resume, or is finished.

RUN/config.yaml      resolved config, with the fingerprint of the pairs
RUN/metrics.jsonl    the log, a line per log interval
RUN/tensorboard/     the same for TensorBoard; mlflow.json and wandb.json hold the ids of the run there
RUN/checkpoints/     step-000001000/state.pt, the newest two; with workers Ray Train's storage, with Ray's own snapshot
RUN/workers          there while workers run: their number
RUN/train.json       written last, when the run is finished
RUN/evaluation.json, RUN/samples.npz   written by `flowpairs evaluate`
"""

import json
import math
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowpairs.pipeline.base.atomic import refuse_unwritable, write_atomically
from flowpairs.pipeline.base.environment import in_submitted_job
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.owner import is_empty, refuse_owned
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.base.printing import print_line
from flowpairs.pipeline.config import differing, digest, load, read_yaml, save
from flowpairs.pipeline.store import potential_files
from flowpairs.pipeline.store.format import Index, read_index, read_outline
from flowpairs.training.config import PairsConfig, TrainConfig
from flowpairs.training.pairs.loader_state import potentials_fingerprint

STATE_FILE = "state.pt"  # in the directory of a checkpoint
KEPT = 2  # checkpoints of a run
CHECKPOINT = re.compile(r"checkpoints/[\w-][\w.-]*")  # as the summary names it: below the run, and nowhere else


@dataclass(frozen=True)
class RunDirectory:
    """The paths in the directory of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The path of the resolved config."""
        return self.path / "config.yaml"

    @property
    def is_run(self) -> bool:
        """Return whether a training run was begun here: there is a config, and it is not a pair store's."""
        return self.config.is_file() and "train" in read_yaml(self.config)

    @property
    def metrics(self) -> Path:
        """The path of the log."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints, which is Ray Train's storage."""
        return self.path / "checkpoints"

    @property
    def workers(self) -> Path:
        """The path of the note that workers run."""
        return self.path / "workers"

    def reopen(self, steps: int) -> None:
        """Let a run go on to more steps: what was measured at its end gets the number of steps into its names."""
        summary = self.summary()
        if summary is None:
            return
        kept = [name for name in ("evaluation.json", "samples.npz") if (self.path / name).is_file()]
        for name in kept:
            path = self.path / name
            path.replace(path.with_name(f"{path.stem}-{summary.get('steps', 0):09d}{path.suffix}"))
        (self.path / "train.json").unlink()
        renamed = f"; {' and '.join(kept)} of then keep that number in their names" if kept else ""
        print_line(f"{self.path}: goes on from step {summary.get('steps', 0):,} to {steps:,}{renamed}", sys.stderr)

    def has_results(self) -> bool:
        """Return whether the run has a line in its log, a checkpoint or a summary."""
        whole = (self.path / "train.json").is_file() or any(self.checkpoints.glob("step-*"))
        return whole or (self.metrics.is_file() and self.metrics.stat().st_size > 0)

    @property
    def snapshot(self) -> Path:
        """The path of Ray Train's own list of checkpoints."""
        return self.checkpoints / "checkpoint_manager_snapshot.json"

    def newest_checkpoint(self) -> str | None:
        """Find the newest checkpoint, from which a run resumes: checkpoints/NAME.

        Where Ray Train keeps a list of them, it resumes from that; else every file of a state is a complete one.
        """
        if self.snapshot.is_file():
            noted = self.snapshot.read_text(errors="replace")
            whole = [path.name for path in self.checkpoints.glob("step-*") if f'"{path.name}"' in noted]
        else:
            whole = [path.parent.name for path in self.checkpoints.glob(f"step-*/{STATE_FILE}")]
        return f"{self.checkpoints.name}/{max(whole)}" if whole else None

    def checkpoint(self, step: int) -> Path:
        """Return the directory of the checkpoint of a step."""
        return self.checkpoints / f"step-{step:09d}"

    def keep_newest(self) -> None:
        """Remove all checkpoints but the newest KEPT."""
        for path in sorted(self.checkpoints.glob("step-*"))[:-KEPT]:
            shutil.rmtree(path)

    def summary(self) -> dict[str, Any] | None:
        """Read train.json; None if the run is not finished.

        Raises:
            InputError: the file is not the summary of a run.
        """
        path = self.path / "train.json"
        if not path.is_file():
            return None
        try:
            tree = json.loads(path.read_bytes())
            texts = {key: str(tree[key]) for key in ("pairs_dir", "method", "checkpoint")}
            if not CHECKPOINT.fullmatch(texts["checkpoint"]):
                raise ValueError(f"{texts['checkpoint']!r} is no checkpoint of it")
            shape = {"shape": list(map(int, tree["shape"])), "num_classes": int(tree["num_classes"])}
            return tree | texts | shape | {"two_sided": bool(tree["two_sided"])}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path}: not the summary of a run ({error}); remove it and train again") from error

    def finish(self, summary: dict[str, Any]) -> None:
        """Write train.json, which marks the run as finished."""
        write_json(self.path / "train.json", summary)


def run_path(directory: str | Path) -> Path:
    """Return the absolute path of a run.

    Raises:
        InputError: no file can have that name.
    """
    if "://" not in str(directory):
        as_path(directory)
    return Path(directory).absolute()


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write a JSON file, indented, in one atomic step."""
    write_atomically(path, (json.dumps(tree, indent=1) + "\n").encode())


def check_run(config: TrainConfig) -> tuple[TrainConfig, Index]:
    """Check all that can be checked before Ray is started: the pairs, the model, the numbers, the output directory.

    Returns:
        The config with the fingerprint of the pairs, and the index of the pairs.

    Raises:
        InputError: the pair store is missing or not complete, the model does not fit the data, steps or batch are
            invalid, or the directory holds another run.
    """
    index = check_pairs(config.pairs, coming=config.pairs.source == "stream")
    pairs = config.pairs.model_copy(update={"fingerprint": pairs_fingerprint(config.pairs, index)})
    config = config.model_copy(update={"pairs": pairs})
    from flowpairs.training import models, objectives

    models.check_model(config.model, index.shape, index.num_classes)
    objectives.try_own_classes(config, index.shape, index.num_classes)
    check_path(config, index)
    check_numbers(config, index.pairs)
    check_directory(config)
    return config, index


def pairs_fingerprint(pairs: PairsConfig, index: Index) -> str:
    """Compute a hash of all pairs of a store, or of what determines them if they are still to be made."""
    if pairs.source == "shards":
        return digest({"shards": [shard.sha256 for shard in index.shards]})
    if pairs.source == "stream":
        return digest({"config": index.config_hash})
    return potentials_fingerprint(index, potential_files.load_potentials(as_path(pairs.dir)).g)


def check_pairs(pairs: PairsConfig, *, coming: bool = False) -> Index:
    """Read the index of a store and check its fingerprint, if one is expected.

    Args:
        pairs: the store.
        coming: whether the store may be incomplete; the index then has no shards.

    Raises:
        InputError: there is no store, it has no pairs or no potentials, or its pairs are not the expected ones.
    """
    index = read_outline(pairs.dir).index if coming else read_index(pairs.dir)
    where = f"pairs={pairs.dir!r}"
    if pairs.source == "semidiscrete" and index.method != "semidiscrete":
        raise InputError(
            f"{where}: of method {index.method}, which has no potentials to assign by; give pairs={pairs.dir}"
        )
    if pairs.source != "semidiscrete" and not index.pairs:
        raise InputError(f"{where}: potentials without pairs; give pairs=semidiscrete:{pairs.dir}")
    if pairs.fingerprint not in (None, found := pairs_fingerprint(pairs, index)):
        raise InputError(
            f"pairs.fingerprint={pairs.fingerprint!r}: the pairs in {pairs.dir!r} have {found!r}; "
            "give the directory of the right pairs or remove the fingerprint"
        )
    return index


def check_path(config: TrainConfig, index: Index) -> None:
    """Refuse paths that start from noise if x0 is data, and average velocities on a chain over time."""
    if index.two_sided and config.path.kind == "fm":
        raise InputError("path.kind=fm: starts from noise, and x0 of these pairs is data; give path.kind=cfm")
    if index.times and config.objective.kind == "meanflow":
        raise InputError(
            "objective.kind=meanflow: jumps from 0 to 1, and these pairs are a chain over time; give velocity"
        )


def check_numbers(config: TrainConfig, pairs: int) -> None:
    """Refuse steps, batches and workers that are invalid for a store with the given number of pairs."""
    train = config.train
    if config.pairs.source != "semidiscrete" and train.batch > pairs:
        raise InputError(f"train.batch={train.batch}: more than the {pairs} pairs of the store; lower it")
    if train.warmup > train.steps:
        raise InputError(f"train.warmup={train.warmup}: longer than train.steps={train.steps}; lower it")
    if config.cluster.workers != "auto":
        check_workers(config, config.cluster.workers or 1)


def check_workers(config: TrainConfig, workers: int | tuple[int, int]) -> None:
    """Refuse a global batch that does not divide evenly among every possible number of workers."""
    least, most = (workers, workers) if isinstance(workers, int) else workers
    if least > most:
        raise InputError(f"cluster.workers=[{least}, {most}]: give the least number first")
    batch, parts = config.train.batch, config.train.accumulate
    for count in range(least, most + 1):
        if batch % (count * parts):
            each = math.lcm(*range(least, most + 1)) * parts
            steps = f" with train.accumulate={parts}" if parts > 1 else ""
            raise InputError(
                f"train.batch={batch}: not divisible by {count} workers{steps}; use {max(1, batch // each) * each}"
            )


def check_directory(config: TrainConfig) -> None:
    """Refuse a directory that holds another run or something else, or one that another process writes to."""
    if not check_output(config):
        return
    if not RunDirectory(Path(config.output.dir)).has_results():
        return  # an earlier start was refused or ended before the first line of its log: free for any config
    earlier = load(TrainConfig, RunDirectory(Path(config.output.dir)).config)
    differences = differing(config.determining(), earlier.determining())
    if config.train.steps < earlier.train.steps and len(differences) == 1:
        raise InputError(
            f"train.steps={config.train.steps}: the run in output.dir={config.output.dir!r} goes to "
            f"{earlier.train.steps} steps, and may only grow; give that or more, or another output.dir"
        )
    if config.train.steps > earlier.train.steps:
        differences = [line for line in differences if not line.startswith("train.steps ")]
    if differences:
        raise InputError(
            f"output.dir={config.output.dir!r}: holds a run of another config; {', '.join(differences)}; "
            "give another output.dir or the same values"
        )


def check_output(config: TrainConfig) -> bool:
    """Refuse a directory that cannot be that of a run; return whether it holds a run, of any config."""
    run = RunDirectory(Path(config.output.dir))
    where = f"output.dir={config.output.dir!r}"
    if "://" in config.output.dir:  # pathlib would make it a local directory
        raise InputError(f"{where}: runs are not written to URLs; give a directory that all nodes mount")
    run_path(config.output.dir)  # refuses what no file can be named
    if in_submitted_job() and not run.path.is_absolute():
        raise InputError(
            f"{where}: relative, and a submitted job's working directory is thrown away; "
            "give an absolute path on storage that all nodes share"
        )
    if run.path.exists() and not run.path.is_dir():
        raise InputError(f"{where}: a file is in the way; give another directory")
    refuse_owned(run.path, where)
    if is_empty(run.path):
        refuse_unwritable(run.path, where)
        return False
    if not run.is_run:
        raise InputError(f"{where}: not empty and not a training run; give an empty or a new directory")
    return True


def prepare_run(config: TrainConfig) -> RunDirectory:
    """Create the directory of a checked run and write its resolved config, unless an earlier start with results did."""
    run = RunDirectory(Path(config.output.dir).absolute())
    run.path.mkdir(parents=True, exist_ok=True)
    grown = run.config.is_file() and load(TrainConfig, run.config).train.steps < config.train.steps
    if grown:
        run.reopen(config.train.steps)
    if grown or not run.has_results():
        save(
            config, run.config, f"flowpairs train; hash of what determines the weights: {digest(config.determining())}"
        )
    return run
