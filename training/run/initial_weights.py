"""`train.init`: weights that a run starts from, of another run, of an export, or of a UNet2DModel of diffusers.

Only the weights are taken, the averaged ones of a run; the optimiser, the average and the number of steps start anew.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from flowpairs.pipeline.base.environment import require
from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.config import TrainConfig
from flowpairs.training.run.directory import STATE_FILE
from flowpairs.training.run.state import read_checkpoint
from flowpairs.training.run.trained import read_trained

DIFFUSERS = "diffusion_pytorch_model.safetensors"
PARTS = {"": "", "unet": "", "velocity": "velocity.", "score": "score."}  # folders of an export: prefixes of weights
REMEDY = "give a run, a checkpoint of one, an export, or a UNet2DModel of diffusers"

Weights = dict[str, Tensor]


def pin_init(config: TrainConfig) -> TrainConfig:
    """Return the config with the absolute path and the fingerprint of its initial weights, if it has any.

    Raises:
        InputError: there are none, or not those that the config expects.
    """
    if config.train.init is None:
        return config
    found, expected = weights_fingerprint(read_init(config.train.init)), config.train.init_fingerprint
    if expected not in (None, found):
        raise InputError(
            f"train.init_fingerprint={expected!r}: the weights of train.init={config.train.init!r} have {found!r}; "
            "mend train.init or remove the fingerprint"
        )
    train = config.train.model_copy(update={"init": str(Path(config.train.init).absolute()), "init_fingerprint": found})
    return config.model_copy(update={"train": train})


def read_init(where: str) -> Weights:
    """Read weights by their names in a network of this project; tensors alone, no code is run.

    Raises:
        InputError: no weights are there, or they cannot be read.
    """
    path = Path(where)
    if (path / "config.yaml").is_file() or (path / STATE_FILE).is_file():
        return read_checkpoint(read_trained(path).checkpoint)["ema"]
    found: Weights = {}
    for folder, prefix in PARTS.items():
        for name, inner in (("model.safetensors", ""), (DIFFUSERS, "unet.")):
            file = path / folder / name
            if file.is_file():
                found |= {f"{prefix}{inner}{key}": value for key, value in _safetensors(file, where).items()}
    if not found:
        raise InputError(f"train.init={where!r}: no weights there; {REMEDY}")
    return found


def load_init(network: nn.Module, where: str) -> None:
    """Put the weights of `train.init` into a network.

    Raises:
        InputError: they are of another network.
    """
    own, weights = network.state_dict(), read_init(where)
    names = sorted(own.keys() ^ weights.keys())
    names += sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    if names:
        raise InputError(
            f"train.init={where!r}: weights of another network, first {names[0]!r} of {len(names)} that differ; give "
            "the same model, objective and label_dropout as there"
        )
    network.load_state_dict(weights)


def _safetensors(file: Path, where: str) -> Weights:
    require(f"train.init={where!r}", "safetensors")
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except Exception as error:  # the parser's own kinds
        raise InputError(f"train.init={where!r}: {file} cannot be read ({error}); {REMEDY}") from error


def weights_fingerprint(weights: Weights) -> str:
    """Hash names, shapes and values."""
    whole = hashlib.sha256()
    for name, value in sorted(weights.items()):
        whole.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        whole.update(value.contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()
