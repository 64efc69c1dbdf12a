"""Reading a store while its shards still come: the same batches, as early as their pairs are there."""

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.orders import pairs_of
from support.stores import numbered_store, write_store

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.progress import LOOK_EVERY
from flowpairs.pipeline.store.format import (
    Index,
    Outline,
    Shard,
    Sidecar,
    read_outline,
    write_index,
    write_outline,
    write_sidecar,
)
from flowpairs.training.pairs.batch import Batch, BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.reading import shuffle
from flowpairs.training.pairs.reading.order import Order
from flowpairs.training.pairs.reading.shard_source import shard_groups

GROUPED = st.tuples(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=3), min_size=1, max_size=5), st.integers(1, 9)
).filter(lambda drawn: sum(map(sum, drawn[0])) >= drawn[1])


def grouped(drawn: tuple[list[list[int]], int]) -> Order:
    counts, arcs = drawn
    return Order([count for group in counts for count in group], arcs, 3, [len(group) for group in counts])


@given(GROUPED)
def test_the_first_epoch_meets_every_pair_once_and_none_before_its_shard_is_there(drawn) -> None:
    order, met = grouped(drawn), set()
    position = 0
    while position < order.per_arc:
        segment = order.segment(0, position)
        assert segment.start == position < segment.stop
        read = [pairs_of(order, 0, arc, segment.start, segment.stop) for arc in range(order.arcs)]
        assert {len(pairs) for pairs in read} == {segment.stop - segment.start}
        for pair in (pair for pairs in read for pair in pairs):
            assert pair[0] < segment.needs.stop
            assert pair not in met
            met.add(pair)
        position = segment.stop
    assert sum(order.counts) - len(met) < order.arcs
    # What a group has to wait for are the shards that come after those of the groups before.
    assert order.segment(0, order.per_arc - 1).needs.stop == len(order.counts) or sum(drawn[0][-1]) < order.arcs


@given(GROUPED, st.data())
def test_an_arc_of_it_can_be_read_in_any_pieces(drawn, data: st.DataObject) -> None:
    order = grouped(drawn)
    arc, cut = data.draw(st.integers(0, order.arcs - 1)), data.draw(st.integers(0, order.per_arc))
    whole = pairs_of(order, 0, arc, 0, order.per_arc)
    assert pairs_of(order, 0, arc, 0, cut) + pairs_of(order, 0, arc, cut, order.per_arc) == whole


def test_later_epochs_are_those_of_any_store() -> None:
    streamed, plain = Order([9, 7, 8], 4, 1, [2, 1]), Order([9, 7, 8], 4, 1)
    assert streamed.stretches(1, 2, 0, 6) == plain.stretches(1, 2, 0, 6)
    assert streamed.segment(1, 3) == plain.segment(1, 3)


def test_a_chain_comes_in_groups_of_all_its_legs(tmp_path: Path) -> None:
    index = numbered_store(tmp_path / "store", [4, 4])
    blocks = [(block, 4) for block in (0, 0, 1, 2, 2, 3, 4)]
    assert shard_groups(Outline(index, tuple(blocks))) == [2, 1, 2, 1, 1]
    chain = Index(**{**vars(index), "times": (0.0, 1.0, 2.5)})
    assert shard_groups(Outline(chain, tuple(blocks))) == [3, 3, 1]


class Coming:
    """A store of three blocks, of two shards, one and one, none of which is there yet."""

    counts = (40, 23, 24, 9)
    blocks = (0, 0, 1, 2)

    def __init__(self, directory: Path) -> None:
        index = numbered_store(directory, list(self.counts))
        shards = [Shard(**{**vars(s), "block": b}) for s, b in zip(index.shards, self.blocks, strict=True)]
        self.directory, self.index = directory, Index(**{**vars(index), "shards": tuple(shards)})
        (directory / "index.json").unlink()
        empty = Index(**{**vars(self.index), "shards": ()})
        write_outline(directory, Outline(empty, tuple(zip(self.blocks, self.counts, strict=True))))

    def comes(self, block: int) -> None:
        for shard, of in zip(self.index.shards, self.blocks, strict=True):
            if of == block:
                write_sidecar(self.directory, Sidecar(shard, 0, (0, 9), {}))

    def loader(self, part: BatchPart, **options) -> ShardLoader:
        outline = read_outline(self.directory)
        return ShardLoader(self.directory, outline.index, part, 0, labels=True, outline=outline, **options)


def numbers(batches: Iterator[Batch], count: int) -> list[list[int]]:
    return [batch.x0[:, 0].long().tolist() for batch in islice(batches, count)]


@pytest.fixture
def coming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Coming:
    monkeypatch.setattr(shuffle, "WINDOW_BYTES", 200)
    return Coming(tmp_path / "store")


def test_a_block_is_read_before_the_next_one_is_there(coming: Coming) -> None:
    coming.comes(0)
    with coming.loader(BatchPart(4, 0, 1, 4)) as loader:
        early = numbers(loader, 15)  # all that block 0 has, but for 3 pairs that go with the next one
        assert len({n for batch in early for n in batch}) == 60
        assert max(max(batch) for batch in early) < 63
        got = threading.Event()
        taker = threading.Thread(target=lambda: (numbers(loader, 3), got.set()))
        taker.start()
        assert not got.wait(4 * LOOK_EVERY), "a batch came from shards that are not there"
        coming.comes(1)
        taker.join(60)
        assert got.is_set()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_batches_are_those_of_the_complete_store_whenever_shards_come(coming: Coming, world: int) -> None:
    def all_batches(before: list[int], while_reading: list[int]) -> list[list[list[int]]]:
        for block in before:
            coming.comes(block)
        loaders = [coming.loader(BatchPart(8, rank, world, 4)) for rank in range(world)]
        timers = [threading.Timer(0.4 * (i + 1), coming.comes, [block]) for i, block in enumerate(while_reading)]
        for timer in timers:
            timer.start()
        out = []
        for loader in loaders:
            with loader:
                out.append(numbers(loader, 30))
        return out

    as_they_come = all_batches([], [2, 0, 1])  # in another order than their numbers'
    write_index(coming.directory, coming.index)
    assert read_outline(coming.directory).shards == tuple(zip(coming.blocks, coming.counts, strict=True))
    assert all_batches([], []) == as_they_come
    first = [n for rank in as_they_come for batch in rank[:12] for n in batch]
    assert sorted(first) == list(range(96))


def test_it_resumes_within_the_first_epoch(coming: Coming) -> None:
    for block in range(3):
        coming.comes(block)
    part = BatchPart(8, 0, 1, 4)
    with coming.loader(part) as loader:
        whole = numbers(loader, 30)
    for at in (1, 7, 8, 11, 12, 20):
        with coming.loader(part) as loader:
            numbers(loader, at)
            state = loader.state()
        with coming.loader(part, state=state) as loader:
            assert numbers(loader, 30 - at) == whole[at:]


def test_what_does_not_come_is_said(coming: Coming) -> None:
    coming.comes(1)
    with (
        coming.loader(BatchPart(4, 0, 1, 1), patience=0.1) as loader,
        pytest.raises(InputError, match=r"pairs-000000\.tar"),
    ):
        next(loader)


def test_one_that_waits_can_be_closed(coming: Coming) -> None:
    before = set(threading.enumerate())  # a thread of a loader that another test dropped may be about to end
    with coming.loader(BatchPart(4, 0, 1, 1)):
        pass
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "pair-loader"]


def test_a_damaged_shard_is_refused(coming: Coming) -> None:
    coming.comes(0)
    path = coming.directory / "shards" / coming.index.shards[1].name
    path.write_bytes(path.read_bytes()[:-512])
    with coming.loader(BatchPart(4, 0, 1, 1)) as loader, pytest.raises(InputError, match=path.name):
        numbers(loader, 15)


def test_other_stores_stay_as_they_were(tmp_path: Path) -> None:
    """A complete store has no outline; where none was begun, that is said."""
    x = torch.zeros(4, 2).numpy()
    index = write_store(tmp_path / "store", x, x)
    assert read_outline(tmp_path / "store").shards == ((0, 4),)
    assert read_outline(tmp_path / "store").index == Index(**{**vars(index), "shards": ()})
    with pytest.raises(InputError, match="no such directory"):
        read_outline(tmp_path / "nowhere")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "outline.json").write_text("{}")
    with pytest.raises(InputError, match="not the outline"):
        read_outline(tmp_path / "begun")
