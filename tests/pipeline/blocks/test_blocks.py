"""The division of a job: every source row and every pair once, every datum equally often."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks.division import Blocks, divide
from flowpairs.pipeline.config import CoupleConfig, validate

SIZES = {
    "n": st.integers(1, 60),
    "ids": st.integers(1, 60),
    "pairs": st.integers(1, 400),
    "pairs_per_shard": st.integers(1, 50),
}


@given(**SIZES)
def test_shards_hold_every_pair_once(n: int, ids: int, pairs: int, pairs_per_shard: int) -> None:
    blocks = Blocks(n, ids, pairs, pairs_per_shard, 0)
    rows, numbers = [], []
    for block in range(blocks.count):
        for number, held in blocks.shards(block).items():
            numbers.append(number)
            assert 0 < len(held) <= pairs_per_shard
            rows += [blocks.first_row(block) + row for row in held]
    assert rows == list(range(pairs))
    assert numbers == list(range(len(numbers)))


@given(n=st.integers(1, 40), ids=st.integers(1, 60), epochs=st.integers(1, 3))
def test_an_epoch_holds_no_datum_twice(n: int, ids: int, epochs: int) -> None:
    per_epoch = max(1, ids // n)
    blocks = Blocks(n, ids, n * per_epoch * epochs, 10, 5)
    for epoch in range(epochs):
        seen = np.concatenate([blocks.data_ids(epoch * per_epoch + part) for part in range(per_epoch)])
        assert len(np.unique(seen)) == len(seen) == per_epoch * blocks.m
        assert seen.min() >= 0
        assert seen.max() < ids


def test_epochs_differ_and_leave_out_different_data() -> None:
    blocks = Blocks(30, 100, 100_000, 10, 1)
    counts = np.zeros(100, int)
    for block in range(300):  # 100 epochs
        counts[blocks.data_ids(block)] += 1
    assert counts.sum() == 9_000
    assert counts.min() > 70  # 90 expected, standard deviation 3


def test_n_above_the_data_needs_a_word() -> None:
    tree = {"data": {"path": "digits"}, "coupling": {"n": 2000}, "output": {"dir": "o", "pairs": 10}}
    with pytest.raises(InputError, match=r"coupling.n=2000: larger than the data set of 1797 data"):
        divide(validate(CoupleConfig, tree), 1797)
    tree["coupling"] = {"n": 2000, "resample": "repeat"}
    assert divide(validate(CoupleConfig, tree), 1797).m == 1797
    tree["data"] = {"path": "digits", "flips": True}
    assert divide(validate(CoupleConfig, tree), 1797).m == 2000
