"""Small networks of every kind."""

from pydantic import TypeAdapter

from flowpairs.training.config import ModelConfig

CONFIGS: dict[str, dict] = {
    "mlp": {"kind": "mlp", "width": 32, "depth": 2},
    "unet": {"kind": "unet", "channels": [8, 16], "layers": 1},
    "dit": {"kind": "dit", "patch": 2, "width": 32, "depth": 2, "heads": 4},
}


def config(name: str, **changes: object) -> ModelConfig:
    return TypeAdapter(ModelConfig).validate_python(CONFIGS[name] | changes)
