"""Resolved configurations side by side: which keys differ between runs."""

from typing import Any

from flowpairs.pipeline.config.plain_yaml import parse


def differing(configs: dict[str, str | None]) -> list[tuple[str, list[str]]]:
    """The dotted keys whose values are not the same in all configurations.

    Args:
        configs: name -> YAML text; None, where a run left no config.yaml, is not compared.

    Returns:
        (key, its value in every configuration, in their order; a dash where it has none).
    """
    flat = {name: _flatten(parse(text)) if text else {} for name, text in configs.items()}
    compared = [keys for name, keys in flat.items() if configs[name]]
    keys = sorted({key for config in compared for key in config})
    return [
        (key, [config.get(key, "–") for config in flat.values()])
        for key in keys
        if len({config.get(key) for config in compared}) > 1
    ]


def _flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(tree, dict):
        return {prefix: str(tree)}
    return {key: value for name, sub in tree.items() for key, value in _flatten(sub, _dotted(prefix, name)).items()}


def _dotted(prefix: str, name: Any) -> str:
    return f"{prefix}.{name}" if prefix else str(name)
