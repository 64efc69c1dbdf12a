"""The order of reading: every pair once an epoch, whatever the shards and arcs."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.orders import pairs_of
from support.stores import numbered_store

from flowpairs.training.pairs.pair_loader import PairLoader
from flowpairs.training.pairs.reading import shuffle
from flowpairs.training.pairs.reading.order import Order, arcs_for

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

import generate  # has Philox by its definition

ORDERS = st.tuples(st.lists(st.integers(1, 40), min_size=1, max_size=7), st.integers(1, 9), st.integers(0, 5)).filter(
    lambda drawn: sum(drawn[0]) >= drawn[1]
)


@given(ORDERS)
def test_arcs_are_equal_and_disjoint_and_leave_less_than_one_pair_each(drawn: tuple[list[int], int, int]) -> None:
    counts, arcs, epoch = drawn
    order = Order(counts, arcs, seed=3)
    read = [pairs_of(order, epoch, arc, 0, order.per_arc) for arc in range(arcs)]
    assert {len(pairs) for pairs in read} == {order.per_arc}
    met = [pair for pairs in read for pair in pairs]
    everything = {(shard, row) for shard, count in enumerate(counts) for row in range(count)}
    assert len(set(met)) == len(met)
    assert set(met) <= everything
    assert len(everything) - len(met) < arcs


@given(ORDERS, st.data())
def test_an_arc_can_be_read_in_any_pieces(drawn: tuple[list[int], int, int], data: st.DataObject) -> None:
    counts, arcs, epoch = drawn
    order = Order(counts, arcs, seed=3)
    arc = data.draw(st.integers(0, arcs - 1))
    cut = data.draw(st.integers(0, order.per_arc))
    whole = pairs_of(order, epoch, arc, 0, order.per_arc)
    assert pairs_of(order, epoch, arc, 0, cut) + pairs_of(order, epoch, arc, cut, order.per_arc) == whole


def test_the_remainder_changes_from_epoch_to_epoch() -> None:
    """With 10 pairs in 3 arcs one pair is left out an epoch; over many epochs each is left out about equally often."""
    order = Order([4, 6], 3, seed=0)
    left_out = np.zeros(10)
    for epoch in range(2000):
        met = {pair for arc in range(3) for pair in pairs_of(order, epoch, arc, 0, 3)}
        for number, pair in enumerate([(0, r) for r in range(4)] + [(1, r) for r in range(6)]):
            left_out[number] += pair not in met
    assert left_out.sum() == 2000
    chi_square = ((left_out - 200) ** 2 / 200).sum()
    assert chi_square < 33.7  # the 0.9999 quantile of chi-square with 9 degrees of freedom


@pytest.mark.parametrize(
    ("batch", "workers", "expected"), [(256, 2, 8), (100, 2, 4), (96, 12, 12), (1, 1, 1), (64, 64, 64)]
)
def test_arcs_divide_the_batch_and_suit_the_workers(batch: int, workers: int, expected: int) -> None:
    assert arcs_for(batch, workers) == expected
    assert batch % expected == 0


def test_known_orders() -> None:
    """Golden numbers: a run that began with an earlier version must go on with the same pairs."""
    order = Order([4, 6, 3, 7], 2, seed=5)
    read = {
        epoch: [(stretch.shard, stretch.start, stretch.stop) for stretch in order.stretches(epoch, 1, 0, 10)]
        for epoch in (0, 1, 2**40)
    }
    assert read == {
        0: [(0, 1, 4), (3, 0, 7)],
        1: [(3, 2, 7), (2, 0, 3), (1, 0, 2)],
        2**40: [(3, 5, 7), (0, 0, 4), (2, 0, 3), (1, 0, 1)],
    }
    assert order.shuffle(0, 0, 0, 10).tolist() == [8, 0, 6, 3, 5, 7, 1, 9, 4, 2]
    assert order.shuffle(0, 1, 0, 10).tolist() == [2, 3, 6, 1, 7, 0, 5, 8, 4, 9]
    assert order.shuffle(3, 1, 7, 3).tolist() == [2, 1, 0]
    assert Order([9] * 9, 1, 2**63 - 1).shuffle(1, 0, 5, 8).tolist() == [2, 7, 3, 1, 4, 6, 0, 5]


def word(seed: int, stream: int, epoch: int, number: int) -> int:
    """Word `number` of a stream, as docs/pair-format.md says."""
    return generate.philox([number // 4 + 1, 0, 0, epoch], [seed, stream])[number % 4]


@pytest.mark.parametrize("window_bytes", [100, 2**25])
def test_an_epoch_is_the_one_that_the_page_on_the_format_describes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window_bytes: int
) -> None:
    """Pair by pair, from Philox's definition, in plain Python."""
    monkeypatch.setattr(shuffle, "WINDOW_BYTES", window_bytes)
    counts, seed, batch = [7, 12, 3, 9], 11, 4
    numbered_store(tmp_path / "store", counts)
    arcs, pairs, window = math.gcd(batch, 8), sum(counts), window_bytes // (8 * 2 + 8)
    length, loader, firsts = pairs // arcs, PairLoader(tmp_path / "store", batch, seed=seed), np.cumsum([0, *counts])
    for epoch in range(3):
        words = [word(seed, 17, epoch, shard) for shard in range(4)]
        shards = sorted(range(4), key=words.__getitem__)
        circle = [firsts[shard] + row for shard in shards for row in range(counts[shard])]
        cut = word(seed, 18, epoch, 0) * pairs // 2**64
        read: list[list[int]] = []
        for arc in range(arcs):
            of_arc = [circle[(cut + arc * length + i) % pairs] for i in range(length)]
            words = [word(seed, 19, epoch, arc * length + i) for i in range(length)]
            windows = [range(start, min(start + window, length)) for start in range(0, length, window)]
            read.append([of_arc[i] for some in windows for i in sorted(some, key=words.__getitem__)])
        found = [batch["data_id"].tolist() for batch in loader]
        each = batch // arcs
        assert found == [[n for arc in read for n in arc[i : i + each]] for i in range(0, length, each)]
