"""Small coupling jobs for the tests."""

from pathlib import Path
from typing import Any

from flowpairs.pipeline.config import ClusterConfig, CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.format import Index


def settings(directory: Path, **parts: dict[str, Any]) -> CoupleConfig:
    """1,500 pairs of digits in four blocks, in the calling process where `cluster` says nothing else."""
    tree: dict[str, dict[str, Any]] = {
        "data": {"path": "digits", "label": "label"},
        "coupling": {"n": 400, "rel_eps": 0.1},
        "output": {"dir": str(directory), "pairs": 1500, "pairs_per_shard": 150},
        "cluster": {"actors": 0},
    }
    for part, values in parts.items():
        tree[part] = tree.get(part, {}) | values
    return validate(CoupleConfig, tree)


def shard_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "shards").glob("*.tar")}


def couple_here(config: CoupleConfig) -> Index:
    """Run a job in this process, whatever its config says of actors: the truth that jobs on actors are held to."""
    return couple(config.model_copy(update={"cluster": ClusterConfig(actors=0)}))
