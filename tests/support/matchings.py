"""Semi-discrete stores for the tests of the pipeline and of training, and their pairs found again by a plain loop."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.features_file import load_features
from flowpairs.pipeline.store.records import Decoder, samples

BLIND: dict[str, Any] = {
    "data": {"flips": False},
    "features": {"pca": 24},
    "coupling": {"method": "semidiscrete", "n": 400, "rel_eps": None, "chi2": 0.05},
    "output": {"pairs": 1000, "pairs_per_shard": 150},
}
BY_CLASS: dict[str, Any] = {
    "data": {"flips": True},
    "coupling": {"method": "semidiscrete", "n": 800, "rel_eps": 0.05, "chi2": 0.3, "condition": "class"},
    "sampling": {"draw": "balanced"},
    "output": {"pairs": 1600, "payload": "ids"},
}


def loop(directory: Path, rows: range) -> np.ndarray:
    """The data id of every source row, a row at a time in float64: from the store's files and the generator alone."""
    config = load(CoupleConfig, directory / "config.yaml")
    x, g = np.load(directory / "data.npy"), np.load(directory / "potentials" / "g.npy")
    fitted, seed, coupling = load_features(directory), config.source.seed, config.coupling
    y = fitted.of_data(x, flips=config.data.flips).astype(np.float64)
    basis = np.eye(x[0].size) if fitted.basis is None else fitted.basis.astype(np.float64)
    z, labels = None, None
    if coupling.condition != "blind":
        labels = np.tile(np.load(directory / "labels.npy"), len(y) // len(x))
    if coupling.condition == "extended":
        given = coupling.condition_file
        z = np.eye(labels.max() + 1)[labels] if given is None else np.tile(np.load(given), (len(y) // len(x), 1))
    eps = json.loads((directory / "potentials" / "semidiscrete.json").read_bytes())["problems"][0]["eps"]
    found = []
    for row in rows:
        point = noise.gaussian(seed, row, 1, x[0].size)[0].astype(np.float64) @ basis
        scores, ids = g + y @ point, np.arange(len(y))
        lender = int(noise.uniforms(seed, noise.Stream.CONDITION, row, 1)[0] * len(x))
        if coupling.condition == "class":
            ids = np.flatnonzero(labels == labels[lender])
        elif z is not None:  # -beta c_Z = -beta |z - z_j|^2 / 2, of which <z, z_j> and what g makes up for are left
            scores = scores + coupling.beta * z @ z[lender]
        scores = scores[ids]
        if eps == 0:
            found.append(ids[scores.argmax()])
            continue
        ends = np.exp((scores - scores.max()) / eps).cumsum()
        u = noise.uniforms(seed, noise.Stream.DRAW, row, 1)[0]
        found.append(ids[np.searchsorted(ends, u * ends[-1], side="right")])
    return np.array(found)


def lenders(directory: Path, rows: range) -> np.ndarray:
    """The data that lend source rows their conditions."""
    config = load(CoupleConfig, directory / "config.yaml")
    u = noise.uniforms(config.source.seed, noise.Stream.CONDITION, rows.start, len(rows))
    return (u * len(np.load(directory / "data.npy"))).astype(np.int64)


def blocks(directory: Path) -> list[dict[str, Any]]:
    """The rows of blocks.parquet."""
    import pyarrow.parquet as pq

    return pq.read_table(directory / "blocks.parquet").to_pylist()


def pairs(directory: Path) -> dict[str, np.ndarray]:
    """All pairs of a store, in order."""
    index = format.read_index(directory)
    decoder = Decoder(directory, index)
    parts = [
        decoder.decode(fields, ("x0", "x1", "label", "data_ids"))
        for shard in index.shards
        for _, fields in samples(directory / "shards" / shard.name)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
