"""The state of a loader: which states it refuses, and in which sentence."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.stores import numbered_store, write_store

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.pairs.loader_state import check_form, store_fingerprint, whole_number
from flowpairs.training.pairs.pair_loader import PairLoader


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """100 pairs in four shards."""
    numbered_store(tmp_path / "store", [23, 40, 9, 28])
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 1}, "loader state: seed=1, this loader has 0; give the same again"),
        ({"pairs": 99}, "loader state: pairs=99, this loader has 100; give the same again"),
        ({"store": "0" * 16}, "loader state: store='0{16}', this loader has '[0-9a-f]{16}'; give that store again"),
        ({"store": 3}, "loader state: store=3 is no such value"),
        ({"arcs": 0}, "loader state: arcs=0 is no such value"),
        ({"arcs": 3}, "batch_size=8: the state's order has 3 arcs; give a multiple of 3"),
        ({"position": 12}, "loader state: position=12 is beyond an epoch, which ends at 12; start from the beginning"),
        ({"position": 10**6}, "loader state: position=1000000 is beyond an epoch"),
        ({"position": "1"}, "loader state: position='1' is no such value"),
        ({"position": 1.0}, "loader state: position=1.0 is no such value"),
        ({"position": True}, "loader state: position=True is no such value"),
        ({"position": None}, "loader state: position=None is no such value"),
        ({"position": -1}, "loader state: position=-1 is no such value"),
        ({"epoch": -1}, "loader state: epoch=-1 is no such value"),
        ({"epoch": 2**63}, r"loader state: epoch=\d+ is no such value"),
        ({"lanes": 8}, "loader state: has"),
    ],
)
def test_states_of_others_are_refused(store: Path, changes: dict, sentence: str) -> None:
    loader = PairLoader(store, 8)
    with pytest.raises(ValueError, match=f"^{sentence}"):
        loader.load_state_dict(loader.state_dict() | changes)
    assert loader.state_dict() == PairLoader(store, 8).state_dict()  # as if nothing had been tried


@pytest.mark.parametrize(
    "state", [{}, None, 7, [4, 0, 0], {"arcs": 8, "epoch": 0, "position": 0, "seed": 0, "pairs": 100}]
)
def test_what_is_no_state_is_refused(store: Path, state: object) -> None:
    """Nothing, something else, and the state of an earlier version, whose order was another."""
    keys = PairLoader(store, 8).state_dict()
    with pytest.raises(InputError, match=r"^loader state: has .*, this loader reads \[.*\]; start from the beginning$"):
        check_form(state, keys)


@pytest.mark.parametrize("value", [2.5, "8", None, float("nan"), -1, 2**63, np.float32(3)])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    """As every number that a caller gives is checked; where types are checked as here, hints come first."""
    with pytest.raises(InputError, match=r"^batch_size=.*: give a whole number of at least 0, below 2\^63$"):
        whole_number("batch_size", value, 0)
    assert type(whole_number("batch_size", np.int64(3), 1)) is int
    assert type(whole_number("seed", True, 0)) is int  # so that a state of it can be read again


def test_a_state_of_another_store_is_refused(store: Path, tmp_path: Path) -> None:
    """Other pairs in as many shards of the same sizes, the same pairs in other shards, and more pairs."""
    with PairLoader(store, 10) as loader:
        next(iter(loader))
    i = np.arange(100, dtype=np.float32)
    same = np.stack([i, 2 * i], 1), np.stack([-i, i + 0.5], 1)
    for name, x0, counts in [
        ("others", same[0] + 1, [23, 40, 9, 28]),
        ("elsewhere", same[0], [40, 23, 9, 28]),
    ]:
        write_store(tmp_path / name, x0, same[1], labels=np.arange(100) % 3, shard_counts=counts, record_pairs=5)
        with pytest.raises(ValueError, match=r"^loader state: store='.*', this loader has '.*'; give that store again"):
            PairLoader(tmp_path / name, 10).load_state_dict(loader.state_dict())
    numbered_store(tmp_path / "grown", [23, 40, 9, 28, 5])
    with pytest.raises(ValueError, match=r"^loader state: pairs=100, this loader has 105; give the same again"):
        PairLoader(tmp_path / "grown", 10).load_state_dict(loader.state_dict())
    shutil.copytree(store, tmp_path / "moved")
    PairLoader(tmp_path / "moved", 10).load_state_dict(loader.state_dict())


def test_stores_of_ids_differ_by_their_data(tmp_path: Path) -> None:
    """Their shards may be the same."""
    where = Path(__file__).parents[1] / "conformance" / "ids"
    index = read_index(where)
    assert store_fingerprint(index) == PairLoader(where, 2).state_dict()["store"]
    for change in ({"data_fingerprint": "0" * 64}, {"source_fingerprint": "0" * 64}):
        assert store_fingerprint(dataclasses.replace(index, **change)) != store_fingerprint(index)
