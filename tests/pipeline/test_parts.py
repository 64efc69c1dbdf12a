"""Jobs on data sets of several parts: the shards of one part, on actors and without, and after a kill."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from support.couplings import settings, shard_bytes

from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store.format import read_index
from flowpairs.pipeline.store.verify import verify

PART_BYTES = 500 * 64  # four parts of 1,797 images of a byte a pixel
JOBS: dict[str, dict[str, dict[str, Any]]] = {
    "sinkhorn, full": {"features": {"pca": 24}, "output": {"payload": "full"}},
    "sinkhorn, ids": {"features": {"pca": 24}, "output": {"payload": "ids"}},
    "sinkhorn on all coordinates, ids": {"output": {"payload": "ids"}},
    "semidiscrete, ids": {
        "features": {"pca": 24},
        "coupling": {"method": "semidiscrete", "rel_eps": None, "chi2": 0.5},
        "output": {"payload": "ids"},
    },
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, digits = tmp_path_factory.mktemp("images") / "digits.npz", load_digits()
    np.savez(path, image=(digits.images * 15).astype(np.uint8), label=digits.target)
    return path


def job(images: Path, directory: Path, name: str, actors: int = 0) -> CoupleConfig:
    data = {"path": str(images), "label": "label", "flips": True}
    parts = {"output": {"pairs": 800}} | {
        part: values | ({"pairs": 800} if part == "output" else {}) for part, values in JOBS[name].items()
    }
    return settings(directory, data=data, cluster={"actors": actors}, **parts)


def potentials(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "potentials").glob("*.npy")}


@pytest.fixture(scope="module")
def one_part(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each job on rows in one part."""
    root = tmp_path_factory.mktemp("one-part")
    for name in JOBS:
        couple(job(images, root / name, name))
        assert len(row_set.read_manifest(root / name / "rows").parts) == 1
    return {name: root / name for name in JOBS}


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("actors", [0, 2])
@pytest.mark.parametrize("name", JOBS)
def test_parts_change_nothing_but_the_fingerprint(
    name: str,
    actors: int,
    one_part: dict[str, Path],
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_set, "PART_BYTES", PART_BYTES)
    store = tmp_path / "store"
    couple(job(images, store, name, actors))
    assert len(row_set.read_manifest(store / "rows").parts) == 4
    assert shard_bytes(store) == shard_bytes(one_part[name])
    assert potentials(store) == potentials(one_part[name])
    ours, theirs = (vars(read_index(directory)) for directory in (store, one_part[name]))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"data_fingerprint", "config_hash"}
    assert verify(store).faults == []
    assert recompute(store, 1) == []
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    couple(job(images, store, name, actors))
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


KILLED = """
import os, signal, sys
import numpy as np
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.data.rows import finished_parts, row_set

row_set.PART_BYTES, write, left = int(sys.argv[2]), finished_parts.write_rows, [int(sys.argv[3])]

def write_rows(*args, **options):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*args, **options)

finished_parts.write_rows = write_rows
couple(CoupleConfig.model_validate_json(sys.argv[1]))
"""


@pytest.mark.parametrize("killed_at", [1, 3, 6, 12], ids=["first row part", "rows", "features", "last feature part"])
def test_a_job_killed_among_its_rows_or_features_goes_on(
    killed_at: int, one_part: dict[str, Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four parts of rows, then eight of features, with those of mirror images."""
    name, store = "sinkhorn, ids", tmp_path / "store"
    config = job(images, store, name)
    arguments = [json.dumps(config.model_dump(mode="json")), str(PART_BYTES), str(killed_at)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], check=False, stderr=subprocess.DEVNULL, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    kept = {path: path.stat().st_ino for path in store.rglob("part-*.npy")}
    assert len(kept) == killed_at - 1
    monkeypatch.setattr(row_set, "PART_BYTES", PART_BYTES)
    couple(config)
    assert shard_bytes(store) == shard_bytes(one_part[name])
    assert {path: path.stat().st_ino for path in kept} == kept
    assert not list(store.rglob("part-*.json"))
    assert verify(store).faults == []
