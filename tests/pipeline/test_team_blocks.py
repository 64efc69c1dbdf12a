"""Blocks solved by several actors, and blocks that start from earlier ones: the same shards whoever did what."""

from pathlib import Path

import numpy as np
import pytest
from support.couplings import settings, shard_bytes
from support.processes import couple_with_a_death

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks.division import divide
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.solve.start import block_file, start
from flowpairs.pipeline.store.verify import verify

JOB = {"coupling": {"n": 1600, "rel_eps": 0.02}, "output": {"pairs": 3_000, "pairs_per_shard": 500}}
WARM = {
    "features": {"pca": 2},
    "coupling": {"n": 800, "rel_eps": 0.1, "warm_start": True},
    "output": {"pairs": 4_000, "pairs_per_shard": 400},
}
TEAM = {"actors": 2, "actors_per_block": 2}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """Two blocks, each solved by one actor."""
    directory = tmp_path_factory.mktemp("team") / "alone"
    couple(settings(directory, cluster={"actors": 1}, **JOB))
    return directory


def test_a_team_writes_the_bytes_of_one_actor(alone: Path, tmp_path: Path) -> None:
    couple(settings(tmp_path / "team", cluster=TEAM, **JOB))
    assert shard_bytes(tmp_path / "team") == shard_bytes(alone)
    assert (tmp_path / "team" / "index.json").read_bytes() == (alone / "index.json").read_bytes()
    for block in (0, 1):
        assert np.array_equal(np.load(block_file(tmp_path / "team", block)), np.load(block_file(alone, block)))


def test_a_team_on_two_raylets_loses_a_member(alone: Path, tmp_path: Path) -> None:
    """A member is killed in the middle of a solve that records every pass; the new team ends in the same bytes."""
    directory = tmp_path / "s"
    job = settings(directory, cluster=TEAM | {"checkpoint_seconds": 0}, **JOB)
    couple_with_a_death(job, tmp_path / "couple.yaml")
    assert shard_bytes(directory) == shard_bytes(alone)
    assert not list(directory.glob("potentials/*.trail.npz"))
    assert verify(directory).faults == []


def test_a_team_larger_than_its_blocks_is_refused(tmp_path: Path, local_ray: None) -> None:
    small = {"coupling": {"n": 300}, "output": {"pairs": 300}}
    with pytest.raises(InputError, match=r"cluster\.actors_per_block=2: a block of 300 source rows keeps 1 busy"):
        couple(settings(tmp_path, cluster=TEAM, **small))
    with pytest.raises(InputError, match=r"cluster\.actors_per_block=3: only 2 such actors fit"):
        couple(settings(tmp_path, cluster={"actors": "auto", "actors_per_block": 3}, **small))


@pytest.fixture(scope="module")
def warm_store(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """Five blocks of two features, two of them in the first epoch."""
    directory = tmp_path_factory.mktemp("warm") / "s"
    couple(settings(directory, cluster={"actors": 2}, **WARM))
    return directory


def test_later_blocks_start_from_the_first_epochs_potentials(warm_store: Path, tmp_path: Path) -> None:
    """Whoever solves them: the bytes are those of one actor, and of a run that lost a seed's potentials on the way."""
    couple(settings(tmp_path / "one", cluster={"actors": 1}, **WARM))
    assert shard_bytes(tmp_path / "one") == shard_bytes(warm_store)
    (tmp_path / "one" / "index.json").unlink()
    for shard in (tmp_path / "one" / "shards").glob("pairs-00000[4-9]*"):
        shard.unlink()
    block_file(tmp_path / "one", 1).unlink()
    couple(settings(tmp_path / "one", cluster={"actors": 2}, **WARM))
    assert shard_bytes(tmp_path / "one") == shard_bytes(warm_store)
    assert recompute(warm_store, 5) == []


def test_a_datum_starts_from_its_own_potential(warm_store: Path) -> None:
    config = load(CoupleConfig, warm_store / "config.yaml")
    blocks = divide(config, 1797)
    assert list(blocks.seeds) == [0, 1]
    features = np.random.default_rng(0).standard_normal((1797, 2)).astype(np.float32)
    known = {}
    for seed in blocks.seeds:
        g = np.load(block_file(warm_store, seed))
        known |= dict(zip(blocks.data_ids(seed).tolist(), (g - g.mean()).tolist(), strict=True))
        assert start(warm_store, blocks, seed, features) is None
    ids = blocks.data_ids(3)
    missing = [i for i in ids.tolist() if i not in known]
    assert missing
    have = np.array(list(known))
    for i, value in zip(ids.tolist(), start(warm_store, blocks, 3, features), strict=True):
        nearest = have[((features[have] - features[i]) ** 2).sum(1).argmin()]
        assert value == known[i if i in known else int(nearest)]
