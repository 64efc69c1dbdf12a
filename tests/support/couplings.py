"""Small coupling jobs for the tests."""

from pathlib import Path
from typing import Any

from flowpairs.pipeline.config import CoupleConfig, validate


def settings(directory: Path, **parts: dict[str, Any]) -> CoupleConfig:
    """1,500 pairs of digits in four blocks, on one actor: starting another takes longer than its blocks."""
    tree: dict[str, dict[str, Any]] = {
        "data": {"path": "digits", "label": "label"},
        "coupling": {"n": 400, "rel_eps": 0.1},
        "output": {"dir": str(directory), "pairs": 1500, "pairs_per_shard": 150},
        "cluster": {"actors": 1},
    }
    for part, values in parts.items():
        tree[part] = tree.get(part, {}) | values
    return validate(CoupleConfig, tree)


def shard_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "shards").glob("*.tar")}
