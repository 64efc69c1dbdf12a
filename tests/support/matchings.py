"""Semi-discrete stores for the tests of the pipeline and of training, and their pairs found again by a plain loop."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.features import fit_features
from flowpairs.pipeline.config import CoupleConfig, load, save, validate
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.features_file import load_features, save_features
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
    """The data id of every source row: from the store's files and the generator alone."""
    config, x = load(CoupleConfig, directory / "config.yaml"), np.load(directory / "data.npy")
    seed, count = config.source.seed, len(rows)
    x0 = np.stack([noise.gaussian(seed, row, 1, x[0].size)[0] for row in rows])
    u = np.array([noise.uniforms(seed, noise.Stream.DRAW, row, 1)[0] for row in rows])
    given = np.load(directory / "labels.npy") if (directory / "labels.npy").is_file() else None
    if config.coupling.condition_file is not None:
        given = np.load(config.coupling.condition_file)
    some = lenders(directory, range(rows.start, rows.start + count))
    return partners(directory, x0, u, None if config.coupling.condition == "blind" else given[some])


def partners(directory: Path, x0: np.ndarray, u: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    """The data id of every noise, one at a time in float64, from the store's files alone.

    Args:
        directory: of the store.
        x0: noises [n, D].
        u: a uniform each.
        given: the condition of each, a label or a row of numbers.
    """
    coupling, flips = (config := load(CoupleConfig, directory / "config.yaml")).coupling, config.data.flips
    x, g = np.load(directory / "data.npy"), np.load(directory / "potentials" / "g.npy")
    fitted = load_features(directory)
    y = fitted.of_data(x, flips=flips).astype(np.float64)
    basis = np.eye(x[0].size) if fitted.basis is None else fitted.basis.astype(np.float64)
    z, labels = None, None
    if coupling.condition != "blind":
        labels = np.tile(np.load(directory / "labels.npy"), len(y) // len(x))
    if coupling.condition == "extended":
        named = coupling.condition_file
        z = np.eye(labels.max() + 1)[labels] if named is None else np.tile(np.load(named), (len(y) // len(x), 1))
    eps = json.loads((directory / "potentials" / "semidiscrete.json").read_bytes())["problems"][0]["eps"]
    found = []
    for row, point in enumerate(x0.astype(np.float64) @ basis):
        scores, ids = g + y @ point, np.arange(len(y))
        if coupling.condition == "class":
            ids = np.flatnonzero(labels == given[row])
        elif z is not None:  # -beta c_Z = -beta |z - z_j|^2 / 2, of which <z, z_j> and what g makes up for are left
            own = np.eye(z.shape[1])[given[row]] if coupling.condition_file is None else given[row]
            scores = scores + coupling.beta * z @ own
        scores = scores[ids]
        if eps == 0:
            found.append(ids[scores.argmax()])
            continue
        edges = np.exp((scores - scores.max()) / eps).cumsum()
        found.append(ids[np.searchsorted(edges, u[row] * edges[-1], side="right")])
    return np.array(found)


def lenders(directory: Path, rows: range) -> np.ndarray:
    """The data that lend source rows their conditions."""
    config = load(CoupleConfig, directory / "config.yaml")
    u = noise.uniforms(config.source.seed, noise.Stream.CONDITION, rows.start, len(rows))
    return (u * len(np.load(directory / "data.npy"))).astype(np.int64)


def potential_store(
    directory: Path,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    eps: float = 0.0,
    flips: bool = False,
    pca: int | None = None,
    **coupling: Any,
) -> None:
    """A semi-discrete store without pairs, of potentials that nothing was solved for: any are as good to assign by."""
    tree = {
        "data": {"path": "gone", "flips": flips, "label": "label"},
        "features": {"pca": pca},
        "coupling": {"method": "semidiscrete", "n": 10, "eps": eps, "rel_eps": None, **coupling},
        "output": {"dir": str(directory), "pairs": 0},
    }
    (directory / "potentials").mkdir(parents=True)
    save(validate(CoupleConfig, tree), directory / "config.yaml", "a test's")
    np.save(directory / "data.npy", x.astype(np.float32))
    np.save(directory / "labels.npy", labels)
    save_features(fit_features(x, pca, flips=flips), directory)
    g = np.random.default_rng(1).normal(size=len(x) * (1 + flips))
    np.save(directory / "potentials" / "g.npy", g)
    notes = {"problems": [{"eps": eps, "rel_eps": eps, "chi2": 0.0}], "g_sha256": hashlib.sha256(g.data).hexdigest()}
    (directory / "potentials" / "semidiscrete.json").write_text(json.dumps(notes))
    index = format.Index(
        config_hash="0" * 16,
        data_fingerprint="f" * 16,
        pairs=0,
        shape=x.shape[1:],
        num_classes=int(labels.max()) + 1,
        payload="full",
        method="semidiscrete",
        convention="",
        shards=(),
    )
    format.write_index(directory, index)


def blocks(directory: Path) -> list[dict[str, Any]]:
    """The rows of blocks.parquet."""
    import pyarrow.parquet as pq

    return pq.read_table(directory / "blocks.parquet").to_pylist()


def pairs(directory: Path, *, labels: bool = True) -> dict[str, np.ndarray]:
    """All pairs of a store, in order."""
    index = format.read_index(directory)
    decoder = Decoder(directory, index)
    parts = [
        decoder.decode(fields, ("x0", "x1", "data_ids", *(["label"] if labels else [])))
        for shard in index.shards
        for _, fields in samples(directory / "shards" / shard.name)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
