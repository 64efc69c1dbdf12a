"""The state of a run and its checkpoints: tensors and numbers only, loaded with weights_only=True.

The state of random generators is not part of it: all randomness of a step is a function of (seed, step), so a resumed
run draws what an uninterrupted run would have drawn.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import refuse_special
from flowpairs.training.config import OptimisationConfig
from flowpairs.training.pairs.loader_state import State, check_form

FILE = "state.pt"
_REMEDY = "train again into another output.dir, or give the right one"


@dataclass
class TrainState:
    """The weights, their moving average, the optimiser, and the position of the run.

    `model` is the module without wrappers for data parallelism, which the worker adds.
    """

    model: nn.Module
    ema: AveragedModel
    optimiser: torch.optim.AdamW
    loader: State | None = None  # None: at the beginning
    step: int = 0
    seconds: float = 0.0  # of training, over all restarts

    @classmethod
    def start(cls, model: nn.Module, config: OptimisationConfig) -> "TrainState":
        """Create the state before the first step."""
        optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
        return cls(model, AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)), optimiser)

    def save(self, directory: Path) -> None:
        """Write a checkpoint into a directory."""
        tree = {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "loader": self.loader,
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(tree, directory / FILE)

    def load(self, directory: Path, device: torch.device) -> None:
        """Load a checkpoint of the same model and configuration.

        Raises:
            InputError: the checkpoint does not exist, or belongs to another model or another version.
        """
        tree = read_checkpoint(directory, device)
        try:
            self.model.load_state_dict(tree["model"])
            self.ema.module.load_state_dict(tree["ema"])
            self.optimiser.load_state_dict(tree["optimiser"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"checkpoint {str(directory)!r}: of another model ({error}); {_REMEDY}") from error
        self.ema.n_averaged.fill_(tree["step"])
        try:
            self.loader = None if tree["loader"] is None else check_form(tree["loader"])
        except InputError as error:
            raise InputError(f"checkpoint {str(directory)!r}: {error}") from error
        self.step, self.seconds = tree["step"], tree["seconds"]


def read_checkpoint(directory: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint as the tree that was saved: model, ema, optimiser, loader, step, seconds.

    Raises:
        InputError: the file does not exist, is damaged, or holds anything but tensors and numbers; no code is run.
    """
    where = f"checkpoint {str(directory / FILE)!r}"
    try:
        refuse_special(directory / FILE)
        tree = torch.load(directory / FILE, map_location=device, weights_only=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # zip, pickle and storages raise many kinds, with texts that advise unsafe loading
        raise InputError(f"{where}: damaged, or not of tensors alone ({type(error).__name__}); {_REMEDY}") from error
    kinds = {"model": dict, "ema": dict, "optimiser": dict, "loader": dict | None, "step": int, "seconds": float}
    for key, kind in kinds.items():
        if not isinstance(tree, dict) or not isinstance(tree.get(key), kind):
            raise InputError(f"{where}: not a checkpoint of a training run, {key!r} is missing or wrong; {_REMEDY}")
    return tree
