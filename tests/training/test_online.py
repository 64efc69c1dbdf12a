"""Training on potentials: the loader's batches are the pairs that shards would hold, for any workers, and go on."""

import dataclasses
import hashlib
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from support.matchings import loop, pairs
from support.rowsets import column, stored

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.config import load, validate
from flowpairs.pipeline.store.format import read_index, write_index
from flowpairs.training.config import TrainConfig
from flowpairs.training.pairs.batch import Batch, BatchPart
from flowpairs.training.pairs.loader_state import State
from flowpairs.training.pairs.online import OnlineLoader
from flowpairs.training.pairs.reference import read_reference
from flowpairs.training.run.directory import check_pairs, check_run, prepare_run
from flowpairs.training.train import train


def batches(store: Path, part: BatchPart, count: int, state: State | None = None, labels: bool = True) -> list[Batch]:
    with OnlineLoader(store, read_index(store), part, labels, state) as loader:
        return list(islice(loader, count))


def rows_of(store: Path, batch: int, world: int, count: int) -> dict[str, np.ndarray]:
    """All rows of the first global batches, in order."""
    ranks = [batches(store, BatchPart(batch, rank, world, world), count) for rank in range(world)]
    steps = [part for step in zip(*ranks, strict=True) for part in step]
    return {name: np.concatenate([getattr(part, name).numpy() for part in steps]) for name in ("x0", "x1", "label")}


def state_of(store: Path, part: BatchPart) -> State:
    """The state before the first batch."""
    with OnlineLoader(store, read_index(store), part) as loader:
        return loader.state()


@pytest.fixture
def alone(blind: Path, tmp_path: Path) -> Path:
    """The store with potentials and without pairs."""
    shutil.copytree(blind, tmp_path / "alone", ignore=shutil.ignore_patterns("*.tar", "pairs-*.json"))
    write_index(tmp_path / "alone", dataclasses.replace(read_index(blind), pairs=0, shards=()))
    return tmp_path / "alone"


@pytest.mark.parametrize(("batch", "world"), [(100, 1), (100, 2), (6, 2), (250, 1), (1, 1)])
def test_batches_are_the_pairs_in_the_shards(blind: Path, batch: int, world: int) -> None:
    count = min(1000 // batch, 8)
    found, stored = rows_of(blind, batch, world, count), pairs(blind)
    for name, values in found.items():
        assert len(values) == batch * count
        np.testing.assert_array_equal(values, stored[name][: batch * count])


def test_batches_go_on_where_pairs_end(blind: Path) -> None:
    """Noise that no shard holds, assigned as a plain loop does it."""
    (found,) = batches(blind, BatchPart(60, 1, 2, 2), 1, state_of(blind, BatchPart(60, 1, 2, 2)) | {"position": 10**6})
    first = 60 * 10**6 + 30
    ids, x = loop(blind, range(first, first + 30)), stored(blind)
    np.testing.assert_array_equal(found.x1.numpy(), x[ids])
    np.testing.assert_array_equal(found.x0.numpy().reshape(30, 64), noise.gaussian(0, first, 30, 64))


def test_batches_by_class_with_mirror_images(by_class: Path) -> None:
    """At eps > 0, as they are before they are balanced."""
    found, ids = rows_of(by_class, 80, 2, 3), loop(by_class, range(240))
    x = stored(by_class)
    both = np.concatenate([x, x[..., ::-1]])
    np.testing.assert_array_equal(found["x1"], both[ids])
    np.testing.assert_array_equal(found["label"], column(by_class)[ids % 1797])
    assert (ids >= 1797).any()


def test_a_state_goes_on_at_the_next_batch_with_other_workers(blind: Path) -> None:
    undisturbed = batches(blind, BatchPart(40, 0, 1, 1), 9)
    with OnlineLoader(blind, read_index(blind), BatchPart(40, 1, 2, 2), labels=True) as loader:
        for _ in islice(loader, 4):
            pass
        state = loader.state()
    for world in (1, 2):
        ranks = [batches(blind, BatchPart(40, rank, world, state["arcs"]), 5, state) for rank in range(world)]
        for expected, *parts in zip(undisturbed[4:], *ranks, strict=True):
            for name in ("x0", "x1", "label"):
                whole = torch.cat([getattr(part, name) for part in parts])
                torch.testing.assert_close(whole, getattr(expected, name), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        (BatchPart(80, arcs=2), {}, "batch=40, this loader has 80; give the same again or start"),
        (BatchPart(40, arcs=4), {}, "arcs=2, this loader has 4; give the same again or start"),
        (BatchPart(40, arcs=2), {"epoch": 1}, "epoch=1, this loader has 0; give the same again or start"),
        (BatchPart(40, arcs=2), {"seed": 1}, "seed=1, this loader has 0; give the same again or start"),
        (BatchPart(40, arcs=2), {"position": -1}, "position=-1 is no such value; start"),
        (
            BatchPart(40, arcs=2),
            {"position": 2**40 // 40},
            "position=27487790694 is beyond the noise of a seed, which has",
        ),
    ],
)
def test_a_state_of_another_loader_is_refused(blind: Path, part: BatchPart, changes: State, sentence: str) -> None:
    state = state_of(blind, BatchPart(40, arcs=2)) | changes
    with pytest.raises(InputError, match=f"^loader state: {sentence}"):
        OnlineLoader(blind, read_index(blind), part, state=state)


def test_a_state_of_other_potentials_is_refused(alone: Path) -> None:
    """Of the same configuration and data; the loader that has begun keeps those that it read."""
    part = BatchPart(40, arcs=2)
    state = state_of(alone, part)
    changed(alone, by=1e-9)
    with pytest.raises(InputError, match=r"^loader state: store='.*', this loader has '.*'; give that store again"):
        OnlineLoader(alone, read_index(alone), part, state=state)


def test_labels_are_given_only_where_asked_for(alone: Path) -> None:
    (found,) = batches(alone, BatchPart(4, 0, 1, 1), 1, labels=False)
    assert found.label is None


def test_what_is_missing_is_refused_again_and_again(alone: Path) -> None:
    for name in ("potentials/g.npy", "rows/part-00000.npy", "rows/manifest.json", "features/part-00000.npy"):
        kept = (alone / name).read_bytes()
        (alone / name).unlink()
        with OnlineLoader(alone, read_index(alone), BatchPart(4, 0, 1, 1)) as loader:
            for _ in range(2):
                with pytest.raises(InputError, match=str(alone)):
                    next(loader)
        (alone / name).write_bytes(kept)


def test_the_reference_is_the_data_set(by_class: Path) -> None:
    x, labels = stored(by_class), column(by_class)
    reference = read_reference(by_class, read_index(by_class))
    np.testing.assert_array_equal(reference.x.numpy(), np.concatenate([x, x[..., ::-1]]))
    assert reference.label is not None
    np.testing.assert_array_equal(reference.label.numpy(), np.tile(labels, 2))


def config(store: Path, run: Path, source: str = "semidiscrete:", workers: int = 1) -> TrainConfig:
    plain = {
        "pairs": f"{source}{store}",
        "model": {"kind": "mlp", "width": 32, "depth": 1, "conditional": True},
        "train": {"steps": 40, "batch": 64, "warmup": 5, "log_every": 20, "checkpoint_every": 20},
        "output": {"dir": str(run)},
        "cluster": {"workers": workers},
    }
    return validate(TrainConfig, plain)


def changed(store: Path, by: float) -> None:
    """Other potentials, whole and with their hash."""
    folder = store / "potentials"
    g = np.load(folder / "g.npy")
    g[0] += by
    np.save(folder / "g.npy", g)
    notes = json.loads((folder / "semidiscrete.json").read_bytes())
    notes["g_sha256"] = hashlib.sha256(g.data).hexdigest()
    (folder / "semidiscrete.json").write_text(json.dumps(notes))


@pytest.mark.usefixtures("local_ray")
def test_ray_train_runs_on_potentials_alone(alone: Path, tmp_path: Path) -> None:
    summary = train(config(alone, tmp_path / "run"))
    assert (summary["steps"], summary["method"], summary["workers"]) == (40, "semidiscrete", 1)
    assert np.isfinite(summary["loss"])
    assert train(config(alone, tmp_path / "run")) == summary
    pinned = load(TrainConfig, tmp_path / "run" / "config.yaml").pairs
    assert pinned.source == "semidiscrete"
    check_pairs(pinned)
    changed(alone, by=1e-9)
    with pytest.raises(InputError, match=r"pairs\.fingerprint='.*': the pairs in '.*' have '.*'"):
        check_pairs(pinned)
    with pytest.raises(InputError, match=r"holds a run of another config; pairs\.fingerprint \('"):
        train(config(alone, tmp_path / "run"))


def test_shards_and_potentials_of_one_store_are_two_runs(blind: Path, tmp_path: Path) -> None:
    prepare_run(check_run(config(blind, tmp_path / "run"))[0]).metrics.write_text("{}\n")
    check_run(config(blind, tmp_path / "run", workers=2))
    with pytest.raises(InputError, match=r"holds a run of another config; .*pairs\.source"):
        check_run(config(blind, tmp_path / "run", source=""))


def test_stores_without_what_is_asked_of_them_are_refused(alone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="potentials without pairs; give pairs=semidiscrete:"):
        check_run(config(alone, tmp_path / "run", source=""))
    write_index(alone, dataclasses.replace(read_index(alone), method="sinkhorn"))
    with pytest.raises(InputError, match="of method sinkhorn, which has no potentials to assign by"):
        check_run(config(alone, tmp_path / "run"))
