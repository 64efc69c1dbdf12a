"""Batches of ids, wherever they are made: the same bits as decoded pairs; noise in torch as in numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.device_noise import device_gaussian
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.pairs.batch import Batch, BatchPart, StoredBatch, scaled_rows
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.pair_loader import PairLoader
from flowpairs.training.pairs.reading import shards

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["noise", "data"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ids of small uint8 images, coupled with noise or with other images."""
    root, rng = tmp_path_factory.mktemp(request.param), np.random.default_rng(0)
    for name, count in (("a", 60), ("b", 50)):
        images = rng.integers(0, 256, (count, 6, 5, 3), np.uint8)
        np.savez(root / f"{name}.npz", image=images, label=np.arange(count) % 4)
    tree: dict[str, Any] = {
        "data": {"path": str(root / "a.npz"), "label": "label", "flips": True},
        "coupling": {"method": "independent", "n": 50},
        "output": {"dir": str(root / "pairs"), "pairs": 400, "payload": "ids"},
        "cluster": {"actors": 0},
    }
    if request.param == "data":
        tree["source"] = {"kind": "data", "path": str(root / "b.npz")}
    couple(validate(CoupleConfig, tree))
    return root / "pairs"


def batches(store: Path, count: int, **options: Any) -> list[Batch]:
    with ShardLoader(store, read_index(store), BatchPart(16, 0, 1, 8), 3, True, **options) as loader:
        return [next(loader).to(CPU) for _ in range(count)]


def assert_same_bits(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> None:
    assert ours is not None
    assert theirs is not None
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours.numpy().view(np.uint8), theirs.numpy().view(np.uint8))


@pytest.mark.parametrize("on_device", [False, True])
def test_batches_by_id_are_the_decoded_pairs(store: Path, on_device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = batches(store, 60)  # two epochs and more
    monkeypatch.setattr(shards, "WIDE", 1)
    for expected, found in zip(decoded, batches(store, 60, on_device=on_device), strict=True):
        for name in ("x0", "x1", "label"):
            assert_same_bits(getattr(found, name), getattr(expected, name))


def test_a_stored_batch_carries_rows_in_their_own_dtype(store: Path) -> None:
    with ShardLoader(store, read_index(store), BatchPart(16, 0, 1, 8), 3, on_device=True) as loader:
        batch = next(loader)
    assert isinstance(batch, StoredBatch)
    assert batch.tensors["stored_x1"].dtype == torch.uint8
    assert "x0" not in batch.tensors


def test_a_pair_loader_by_id_returns_the_decoded_pairs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def epoch() -> list[dict[str, torch.Tensor]]:
        with PairLoader(store, 16, seed=1) as loader:
            return list(loader)

    decoded = epoch()
    monkeypatch.setattr(shards, "WIDE", 1)
    for expected, found in zip(decoded, epoch(), strict=True):
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert_same_bits(found[name], tensor)


@pytest.mark.parametrize(("seed", "dim"), [(0, 3072), (2**62 + 11, 100), (2**63 - 1, 7), (3, 1), (5, 64)])
def test_noise_of_torch_has_the_bits_of_numpy(seed: int, dim: int) -> None:
    rows = np.concatenate([np.arange(20) + 2**39, np.random.default_rng(seed).integers(0, 2**40, 30)])
    assert_same_bits(
        device_gaussian(seed, torch.from_numpy(rows), dim), torch.from_numpy(noise.gaussian_rows(seed, rows, dim))
    )


def test_bytes_become_the_floats_that_numpy_makes() -> None:
    every = np.arange(256, dtype=np.uint8)
    expected = np.divide(every, np.float32(127.5)) - np.float32(1)
    assert_same_bits(scaled_rows(torch.from_numpy(every)), torch.from_numpy(expected))
