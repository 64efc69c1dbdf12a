"""Semi-discrete stores for the tests of the pipeline and of training, and their pairs found again by a plain loop."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.directions import RowSample, fit_features
from flowpairs.pipeline.blocks.feature_store import features_directory, make_features, save_map
from flowpairs.pipeline.config import CoupleConfig, load, save, validate
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows.make import save_target, target_of
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.records import Decoder, samples
from support.rowsets import column, stored

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
    config, x = load(CoupleConfig, directory / "config.yaml"), stored(directory)
    seed, count = config.source.seed, len(rows)
    x0 = np.stack([noise.gaussian(seed, row, 1, x[0].size)[0] for row in rows])
    u = np.array([noise.uniforms(seed, noise.Stream.DRAW, row, 1)[0] for row in rows])
    given = column(directory) if (directory / "rows" / "label.npy").is_file() else None
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
    x, g = stored(directory), np.load(directory / "potentials" / "g.npy")
    both = np.concatenate([x, x[..., ::-1]]) if flips else x
    with np.load(directory / "features" / "map.npz") as arrays:
        mean, basis = arrays["mean"], arrays["basis"].astype(np.float64) if "basis" in arrays else np.eye(x[0].size)
    y = ((both.reshape(len(both), -1) - mean) @ basis).astype(np.float32).astype(np.float64)
    z, labels = None, None
    if coupling.condition != "blind":
        labels = np.tile(column(directory), len(y) // len(x))
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
    return (u * len(stored(directory))).astype(np.int64)


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
    config = validate(CoupleConfig, tree)
    save(config, directory / "config.yaml", "a test's")
    spec = DataSpec(len(x), x.shape[1:], int(labels.max()) + 1, "vector", 0)
    target = save_target(target_of(config.data, spec, x, {"label": labels}), format.rows_directory(directory))
    fitted, where = fit_features([RowSample(target.rows, np.arange(len(x)), flips)], pca), features_directory(directory)
    save_map(fitted, where)
    make_features(where, fitted, target.rows, target.fingerprint, flips=flips, by_ray=False)
    g = np.random.default_rng(1).normal(size=len(x) * (1 + flips))
    np.save(directory / "potentials" / "g.npy", g)
    notes = {
        "problems": [{"block": 0, "eps": eps, "rel_eps": eps, "chi2": 0.0}],
        "g_sha256": hashlib.sha256(g.data).hexdigest(),
    }
    (directory / "potentials" / "semidiscrete.json").write_text(json.dumps(notes))
    index = format.Index(
        config_hash="0" * 16,
        data_fingerprint=target.fingerprint,
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
