"""Blocks solved by several actors: the same shards as by one process."""

from pathlib import Path

import numpy as np
import pytest
from support.couplings import settings, shard_bytes
from support.processes import couple_with_a_death

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store.potential_files import block_file
from flowpairs.pipeline.store.verify import verify

JOB = {"coupling": {"n": 1600, "rel_eps": 0.02}, "output": {"pairs": 3_000, "pairs_per_shard": 500}}
TEAM = {"actors": 2, "actors_per_block": 2}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks, each solved by one process."""
    directory = tmp_path_factory.mktemp("team") / "alone"
    couple(settings(directory, **JOB))
    return directory


def test_a_team_writes_the_bytes_of_one_process(alone: Path, tmp_path: Path, local_ray: None) -> None:
    couple(settings(tmp_path / "team", cluster=TEAM, **JOB))
    assert shard_bytes(tmp_path / "team") == shard_bytes(alone)
    assert (tmp_path / "team" / "index.json").read_bytes() == (alone / "index.json").read_bytes()
    for block in (0, 1):
        assert np.array_equal(np.load(block_file(tmp_path / "team", block)), np.load(block_file(alone, block)))


@pytest.mark.nightly
def test_a_team_on_two_raylets_loses_a_member(alone: Path, tmp_path: Path) -> None:
    """A member is killed in the middle of a solve that records every pass; the new team ends in the same bytes."""
    directory = tmp_path / "s"
    job = settings(directory, cluster=TEAM | {"checkpoint_seconds": 0}, **JOB)
    couple_with_a_death(job, tmp_path / "couple.yaml")
    assert shard_bytes(directory) == shard_bytes(alone)
    assert not list(directory.glob("potentials/*.checkpoint.npz"))
    assert verify(directory).faults == []


def test_a_team_larger_than_its_blocks_is_refused(tmp_path: Path, local_ray: None) -> None:
    small = {"coupling": {"n": 300}, "output": {"pairs": 300}}
    with pytest.raises(InputError, match=r"cluster\.actors_per_block=2: a block of 300 source rows keeps 1 busy"):
        couple(settings(tmp_path, cluster=TEAM, **small))
    with pytest.raises(InputError, match=r"cluster\.actors_per_block=3: only 2 such actors fit"):
        couple(settings(tmp_path, cluster={"actors": "auto", "actors_per_block": 3}, **small))
