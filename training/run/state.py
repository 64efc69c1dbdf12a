"""The state of a run and its checkpoints: tensors and numbers only, loaded with weights_only=True.

The state of random generators is not part of it, nor that of a schedule: all randomness, the learning rate and the
decay of the average are functions of (config, step), so a resumed run goes on as an uninterrupted one would have.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowpairs.pipeline.base.atomic import atomic_open
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import refuse_special
from flowpairs.training.config import OptimisationConfig
from flowpairs.training.pairs.loader_state import State, check_form
from flowpairs.training.run.directory import STATE_FILE

Tree = dict[str, Any]  # what a checkpoint holds: model, ema, optimiser, loader, step, seconds
_REMEDY = "train again into another output.dir, or give the right one"


@dataclass
class TrainState:
    """The weights, their moving average, the optimiser, and the position of the run.

    `model` is the module without wrappers for data parallelism, which the worker adds.
    """

    model: nn.Module
    ema: nn.Module
    optimiser: torch.optim.AdamW
    loader: State | None = None  # None: at the beginning
    step: int = 0
    seconds: float = 0.0  # of training, over all restarts

    @classmethod
    def start(cls, model: nn.Module, config: OptimisationConfig) -> "TrainState":
        """Create the state before the first step."""
        given: Any = {"betas": config.betas, "weight_decay": config.weight_decay}
        optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True, **given)
        return cls(model, copy.deepcopy(model), optimiser)

    @torch.no_grad()
    def average(self, config: OptimisationConfig) -> None:
        """Take the weights of a step into their average, before `step` counts it.

        After n steps by min(ema, (1 + n) / (ema_warmup + n)) of the old ones. n is a number of the host:
        torch.optim.swa_utils keeps it in a tensor, which it copies to the device in every step and waits for.
        """
        averaged, current = (list[Tensor](module.parameters()) for module in (self.ema, self.model))
        if self.step == 0:
            torch._foreach_copy_(averaged, current)
        else:
            kept = min(config.ema, (1 + self.step) / (config.ema_warmup + self.step))
            torch._foreach_lerp_(averaged, current, 1 - kept)

    def tree(self) -> Tree:
        """Copy the state to the host, where further steps do not change it.

        From a GPU the copies arrive in pinned memory some time after this returns: when what was queued on its stream
        before them is done.
        """
        return copied(
            {
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "loader": self.loader,
                "step": self.step,
                "seconds": self.seconds,
            }
        )

    def save(self, directory: Path) -> None:
        """Write a checkpoint into a directory."""
        write_checkpoint(self.tree(), directory)

    def load(self, directory: Path) -> None:
        """Load a checkpoint of the same model and configuration.

        Raises:
            InputError: the checkpoint does not exist, or belongs to another model or another version.
        """
        tree = read_checkpoint(directory)
        try:
            self.model.load_state_dict(tree["model"])
            self.ema.load_state_dict(tree["ema"])
            self.optimiser.load_state_dict(copied(tree["optimiser"]))  # or it would go on in the mapped file
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"checkpoint {str(directory)!r}: of another model ({error}); {_REMEDY}") from error
        try:
            self.loader = None if tree["loader"] is None else check_form(tree["loader"])
            self.step, self.seconds = tree["step"], tree["seconds"]
        except InputError as error:
            raise InputError(f"checkpoint {str(directory)!r}: {error}") from error
        except KeyError as error:
            raise InputError(f"checkpoint {str(directory)!r}: without its {error}; {_REMEDY}") from error


def copied(tree: Any) -> Any:
    """Copy the tensors of nested dicts and lists to the host."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", non_blocking=True, copy=True)
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


def write_checkpoint(tree: Tree, directory: Path) -> None:
    """Write a checkpoint into a directory, in which the file appears complete.

    Raises:
        JobError: a full or read-only disk.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_open(directory / STATE_FILE) as file:
        torch.save(tree, file)


def read_checkpoint(directory: Path) -> Tree:
    """Read a checkpoint as the tree that was saved; its tensors are read from the file when they are used.

    Raises:
        InputError: the file does not exist, is damaged, or holds anything but tensors and numbers; no code is run.
    """
    where = f"checkpoint {str(directory / STATE_FILE)!r}"
    try:
        refuse_special(directory / STATE_FILE)
        tree = torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True, mmap=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # zip, pickle and storages raise many kinds, with texts that advise unsafe loading
        raise InputError(f"{where}: damaged, or not of tensors alone ({type(error).__name__}); {_REMEDY}") from error
    kinds = {"model": dict, "ema": dict, "optimiser": dict, "loader": dict | None, "step": int, "seconds": float}
    for key, kind in kinds.items():
        if not isinstance(tree, dict) or not isinstance(tree.get(key), kind):
            raise InputError(f"{where}: not a checkpoint of a training run, {key!r} is missing or wrong; {_REMEDY}")
    return tree
