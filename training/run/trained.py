"""A trained network, read from the directory of a run or from one of its checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import load
from flowpairs.pipeline.store.format import read_outline
from flowpairs.training import objectives
from flowpairs.training.config import OwnConfig, TrainConfig
from flowpairs.training.run.directory import STATE_FILE, RunDirectory, run_path
from flowpairs.training.run.state import read_checkpoint


@dataclass(frozen=True)
class Trained:
    """A trained network: a checkpoint, and what is needed to rebuild the network.

    Attributes:
        run: the directory of the run.
        checkpoint: the directory of the checkpoint, which holds the weights.
        config: the configuration of the run.
        pairs: the directory or URL of the pair store at the time of training; the store may be gone since.
        method: the method that coupled the pairs.
        shape: the shape of one datum.
        num_classes: the number of classes of the data; 0 if the pairs have no labels.
        two_sided: whether x0 of the pairs is data rather than noise.
        final: whether the run is finished and this is its last checkpoint.
    """

    run: RunDirectory
    checkpoint: Path
    config: TrainConfig
    pairs: str
    method: str
    shape: tuple[int, ...]
    num_classes: int
    two_sided: bool = False
    final: bool = True
    trusted: bool = False  # whether a network that is a class of whoever made the run may be imported

    def network(self, device: torch.device) -> nn.Module:
        """Build the network with its averaged weights, on a device and in evaluation mode.

        Raises:
            InputError: the checkpoint does not exist, or belongs to another network; or the network is a class of
                somebody's own and the run is not trusted.
        """
        self.refuse_untrusted()
        network = objectives.build_network(self.config, self.shape, self.num_classes)
        try:
            network.load_state_dict(read_checkpoint(self.checkpoint)["ema"])
        except RuntimeError as error:
            where, remedy = f"checkpoint {str(self.checkpoint)!r}", "give a checkpoint beside its own config.yaml"
            raise InputError(f"{where}: of another network than {self.run.config} describes; {remedy}") from error
        return network.to(device).eval()

    def refuse_untrusted(self) -> None:
        """Refuse, by `InputError`, a network that is code of whoever made the run, unless the run is trusted."""
        if isinstance(model := self.config.model, OwnConfig) and not self.trusted:
            raise InputError(
                f"run {str(self.run.path)!r}: its network is {model.network}, code of whoever made the run, which "
                "would be imported and run; give --trust if you trust it"
            )


def read_finished(directory: str | Path, *, trust: bool = False) -> Trained:
    """Read a finished run with its last checkpoint; `trust` allows a network of somebody's own to be imported.

    Raises:
        InputError: there is no run, or it is not finished.
    """
    run = RunDirectory(run_path(directory))
    if not run.is_run:
        raise InputError(f"run {str(directory)!r}: not a training run; give the output.dir of `flowpairs train`")
    if (summary := run.summary()) is None:
        raise InputError(f"run {str(directory)!r}: not finished; run the same `flowpairs train` again to complete it")
    return _read(run, run.path / summary["checkpoint"], summary, trust)


def read_trained(directory: str | Path, *, trust: bool = False) -> Trained:
    """Read a finished run, or any checkpoint of a run.

    Args:
        directory: the directory RUN of a finished run, or a directory in RUN/checkpoints.
        trust: whether a network that is a class of somebody's own may be imported.

    Raises:
        InputError: the directory is neither of these.
    """
    path = run_path(directory)
    if not (path / STATE_FILE).is_file():
        return read_finished(directory, trust=trust)
    run = RunDirectory(path.parents[1])
    if not run.config.is_file():
        raise InputError(
            f"checkpoint {str(directory)!r}: no {run.config} describes it; give one in its run's directory"
        )
    return _read(run, path, run.summary(), trust)


def _read(run: RunDirectory, checkpoint: Path, summary: dict[str, Any] | None, trust: bool) -> Trained:
    """Read a checkpoint of a run; if the run is not finished, the index of the pairs stands in for the summary."""
    config = load(TrainConfig, run.config)
    if summary is None:
        index = read_outline(config.pairs.dir).index
        of_pairs = index.method, index.shape, index.num_classes, index.two_sided
        return Trained(run, checkpoint, config, config.pairs.dir, *of_pairs, final=False, trusted=trust)
    of_pairs = summary["method"], tuple(summary["shape"]), summary["num_classes"], summary["two_sided"]
    final = checkpoint == run.path / summary["checkpoint"]
    return Trained(run, checkpoint, config, summary["pairs_dir"], *of_pairs, final=final, trusted=trust)
