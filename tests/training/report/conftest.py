"""Pair stores and training runs on disk: small, real, of scikit-learn's data, coupled by SciPy."""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits, make_moons
from webdataset import TarWriter

from flowpairs.pipeline.store.format import Index, Shard, record_key, shard_name, write_index

Make = Callable[..., Path]

CONFIG = """data:
  path: digits
coupling:
  method: {method}
  n: 64
  tol: 0.001
"""


@cache
def digits() -> Any:
    """Parsed once: scikit-learn reads them from text."""
    return load_digits()


def images(count: int) -> np.ndarray:
    """Digits as [count, 1, 8, 8] in [-1, 1]."""
    return (digits().images[:count, None] / 8 - 1).astype(np.float32)


def moons(count: int) -> np.ndarray:
    return make_moons(count, noise=0.05, random_state=0)[0].astype(np.float32)


def vectors(count: int) -> np.ndarray:
    """Digits as [count, 5] principal coordinates."""
    flat = digits().data[:count]
    return (np.linalg.svd(flat - flat.mean(0), full_matrices=False)[0][:, :5] * count**0.5).astype(np.float32)


DATA = {"images": images, "moons": moons, "vectors": vectors}


@pytest.fixture
def make_store(tmp_path: Path) -> Make:
    """Writes a store of 64 pairs a block, exactly coupled or shuffled, and returns its directory."""

    def make(name: str, data: str = "images", method: str = "exact", blocks: int = 1, **changes: Any) -> Path:
        directory = tmp_path / name
        (directory / "shards").mkdir(parents=True)
        rng = np.random.default_rng(0)
        x1 = DATA[data](64)
        rows, shards = [], []
        for block in range(blocks):
            x0 = rng.standard_normal(x1.shape).astype(np.float32)
            distance = ((x0.reshape(64, 1, -1) - x1.reshape(1, 64, -1)) ** 2).sum(-1)
            partner = linear_sum_assignment(distance)[1] if method == "exact" else rng.permutation(64)
            report = {
                "block": block, "method": method, "n": 64, "m": 64, "eps": None, "rel_eps": None,
                "sharpness": 0.0 if method == "exact" else 1.0, "partners": 1.0 if method == "exact" else 64.0,
                "source_error": 1e-5 * (1 + block % 7), "target_error": 1e-4 * (1 + block % 5),
                "cost_independent": float(distance.mean()),
                "cost_coupled": float(distance[np.arange(64), partner].mean()),
                "passes": 0, "converged": True, "seconds": 0.25,
            } | changes  # fmt: skip
            rows.append(report)
            shards.append(write_shard(directory / "shards", block, x0, x1, partner))
        pq.write_table(pa.Table.from_pylist(rows), directory / "blocks.parquet")
        (directory / "config.yaml").write_text(CONFIG.format(method=method))
        index = Index(
            config_hash="0123456789abcdef", data_fingerprint="fedcba9876543210", pairs=64 * blocks, shape=x1.shape[1:],
            num_classes=10, payload="full", method=method, convention="cost -x0.x1", shards=tuple(shards),
        )  # fmt: skip
        write_index(directory, index)
        return directory

    return make


def write_shard(directory: Path, number: int, x0: np.ndarray, x1: np.ndarray, partner: np.ndarray) -> Shard:
    """Eight pairs a record, by webdataset's own writer."""
    path = directory / shard_name(number)
    with TarWriter(str(path)) as tar:
        for first in range(0, 64, 8):
            ids = partner[first : first + 8]
            tar.write({
                "__key__": record_key(number, first), "x0.npy": x0[first : first + 8], "x1.npy": x1[ids],
                "label.npy": digits().target[ids], "meta.json": {"data_ids": ids.tolist()},
            })  # fmt: skip
    data = path.read_bytes()
    return Shard(path.name, number, 64, 8, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    """Writes a run whose figures are `scale` times the same and whose samples are the data plus noise."""

    def make(
        name: str,
        method: str = "exact",
        data: str = "images",
        scale: float = 1.0,
        evaluated: bool = True,
        fd: dict[str, float] | None = None,
        steps: int = 400,
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text(f"train:\n  steps: {steps}\npairs: {method}\n")
        write_json(directory / "train.json", {
            "pairs_dir": f"out/{method}", "method": method, "steps": steps, "loss": 0.75 * scale, "seconds": 21.5,
            "samples_per_s": 4321.0, "data_wait": 0.034, "checkpoint": "checkpoint_000003", "workers": 2, "batch": 128,
        })  # fmt: skip
        rng = np.random.default_rng(1)
        with (directory / "metrics.jsonl").open("w") as file:
            for step in range(4, steps + 1, 4):
                loss = scale * (0.75 + np.exp(-step / 40) + 0.05 * rng.standard_normal())
                file.write(json.dumps({"step": step, "loss": loss, "grad_norm": 1.0, "lr": 1e-3}) + "\n")
        if not evaluated:
            return directory
        t = np.linspace(0.01, 0.99, 20)
        write_json(directory / "evaluation.json", {
            "method": method, "pairs_dir": f"out/{method}", "samples": 1797, "seed": 0, "features": "pixels",
            "curvature": 0.412 * scale, "seconds": 3.0,
            "curvature_by_t": {"t": t.tolist(), "value": (scale * (0.2 + t * (1 - t))).tolist()},
            "frechet": [
                {"solver": solver, "nfe": nfe, "fd": (fd or {}).get(key, value * scale)}
                for key, solver, nfe, value in [
                    ("euler4", "euler", 4.0, 31.5), ("euler8", "euler", 8.0, 14.8), ("euler16", "euler", 16.0, 9.19),
                    ("dopri5", "dopri5", 86.4, 4.85),
                ]
            ],
        })  # fmt: skip
        real = DATA[data](64)
        noise = rng.standard_normal(real.shape).astype(np.float32)
        samples = {"real": real}
        for key, level in {"euler4": 0.4, "euler8": 0.25, "euler16": 0.12, "dopri5": 0.05}.items():
            samples[key] = np.clip(real + scale * level * noise, -3, 3)
        paths = np.stack([noise[:40] * (1 - t) + real[:40] * t for t in np.linspace(0, 1, 21, dtype=np.float32)], 1)
        samples["trajectories"] = {"images": paths[:8], "moons": paths, "vectors": paths[..., :2]}[data]
        np.savez(directory / "samples.npz", **samples)
        return directory

    return make


def write_json(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree))
