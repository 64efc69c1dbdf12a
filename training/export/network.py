"""Averaged weights as safetensors, with the files that turn them into a network again.

A UNet is written as diffusers writes its UNet2DModel. Our own modules come with their source in one file, model.py,
which is assembled from this project's modules, so that the exported code is the trained code.
"""

import ast
import hashlib
import inspect
import json
import re
import sys
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from flowpairs.training import models
from flowpairs.training.models import conditioning
from flowpairs.training.objectives.objective import VelocityAndScore, form
from flowpairs.training.run.trained import Trained

OURS = {"flowpairs", "jaxtyping"}  # packages whose imports model.py omits

LOAD = '''
def load(directory: str | Path = ".") -> {name}:
    """The trained network out of config.json and model.safetensors in that directory, ready to be asked."""
    config = json.loads((Path(directory) / "config.json").read_text())
    network = {name}(**{{key: value for key, value in config.items() if not key.startswith("_")}})
    network.load_state_dict(load_file(Path(directory) / "model.safetensors"))
    return network.eval()
'''


def in_diffusers_layout(trained: Trained) -> bool:
    """Return whether diffusers alone can load the network: a UNet without the interval embedding, which is ours."""
    return trained.config.model.kind == "unet" and trained.config.objective.kind != "meanflow"


def parts(trained: Trained) -> dict[str, nn.Module]:
    """Map the folder of each network in the export to the network; [SF]2M has two, velocity/ and score/."""
    network = trained.network(torch.device("cpu"))
    if isinstance(network, VelocityAndScore):
        return {"velocity/": network.velocity, "score/": network.score}
    return {"": network}


def files(trained: Trained) -> dict[str, bytes]:
    """Map the paths in the export to their contents; flow.json states for programs what the card states for readers."""
    out = {}
    for folder, network in parts(trained).items():
        if in_diffusers_layout(trained):
            unet: Any = network.unet
            config, weights, name = unet.to_json_string(), unet.state_dict(), "diffusion_pytorch_model.safetensors"
        else:
            given = models.arguments(trained.config.model, trained.shape, trained.num_classes, **form(trained.config))
            config = json.dumps({"_class_name": type(network).__name__, **given}, indent=2) + "\n"
            weights, name = network.state_dict(), "model.safetensors"
            out["model.py"] = module_source(type(network)).encode()
        out[f"{folder}config.json"] = config.encode()
        tensors = {key: value.contiguous() for key, value in weights.items()}
        out[f"{folder}{name}"] = save(tensors, metadata={"format": "pt"})
    out["flow.json"] = (json.dumps(described(trained, out), indent=1) + "\n").encode()
    return out


def described(trained: Trained, out: dict[str, bytes]) -> dict[str, Any]:
    """Build the content of flow.json: what the weights were trained for, and the hashes of the exported files."""
    config = trained.config
    return {
        "time": "0 source, 1 data",
        "source": "standard Gaussian",
        "shape": trained.shape,
        "num_classes": trained.num_classes if config.model.conditional else 0,
        "null_label": trained.num_classes if config.train.label_dropout else None,
        "path": config.path.model_dump(),
        "objective": config.objective.model_dump(),
        "pairs": trained.method,
        "checkpoint": trained.checkpoint.name,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in out.items() if name != "model.py"},
    }


def module_source(network: type[nn.Module]) -> str:
    """Assemble one Python file with a network's class, the classes that it uses, and a function that loads it."""
    modules = [conditioning, sys.modules[network.__module__]]
    imports = ["import json", "from pathlib import Path", "from safetensors.torch import load_file"]
    bodies = []
    for module in modules:
        found, body = _split(module)
        imports += found
        bodies.append(re.sub(r'\b(Float|Int64)\[Tensor, "[^"]*"\]', "Tensor", body))  # shapes are jaxtyping's
    ordered = sorted(set(imports), key=lambda line: (line.startswith("from"), line))
    standard = [line for line in ordered if line.split()[1] in sys.stdlib_module_names]
    others = [line for line in ordered if line not in standard]
    opening = '"""The network of this directory; `load` is all that a user calls. Needs what is imported here alone."""'
    head = "\n".join([opening, "", *standard, "", *others])
    return "\n\n\n".join([head, *bodies, LOAD.format(name=network.__name__).strip()]) + "\n"


def _split(module: ModuleType) -> tuple[list[str], str]:
    """Split a module into its imports of third-party packages and the source below all of its imports."""
    text = inspect.getsource(module)
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    kept = []
    for node in nodes:
        name = node.names[0].name if isinstance(node, ast.Import) else node.module
        if name and name.split(".")[0] not in OURS:
            kept.append(ast.unparse(node))
    return kept, "\n".join(text.splitlines()[nodes[-1].end_lineno :]).strip()
