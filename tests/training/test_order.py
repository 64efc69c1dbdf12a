"""The order of reading: every pair once an epoch, whatever the shards and arcs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.orders import pairs_of

from flowpairs.training.pairs.reading.order import Order, arcs_for

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
