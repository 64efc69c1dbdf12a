"""The loader: exactly once an epoch over the workers, really shuffled, repeatable, resumable, and never short."""

import json
import os
import pickle
import shutil
import signal
import tempfile
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.stores import numbered_store, write_store
from support.threads import left_since, reading

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.store.format import Index, read_index
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.loader_state import State, check_form
from flowpairs.training.pairs.reading import shuffle

Ids = list[int]


def ids_of(store: Path, part: BatchPart, batches: int, *, seed: int = 0, state: State | None = None) -> list[Ids]:
    """The numbers of the pairs in the next batches; checks that x0, x1 and label belong together."""
    out = []
    with ShardLoader(store, read_index(store), part, seed, labels=True, state=state) as loader:
        for batch in islice(loader, batches):
            numbers = batch.x0[:, 0]
            assert batch.label is not None
            assert torch.equal(batch.x0[:, 1], 2 * numbers)
            assert torch.equal(batch.x1, torch.stack([-numbers, numbers + 0.5], 1))
            assert torch.equal(batch.label, numbers.long() % 3)
            out.append(numbers.long().tolist())
    return out


def global_batches(store: Path, batch: int, world: int, arcs: int, count: int, seed: int = 0) -> list[Ids]:
    """All workers' parts laid together, rank after rank."""
    ranks = [ids_of(store, BatchPart(batch, rank, world, arcs), count, seed=seed) for rank in range(world)]
    return [list(chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    numbered_store(tmp_path / "store", [23, 40, 9, 24])
    return tmp_path / "store"


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a few pairs, so that arcs have several of them."""
    monkeypatch.setattr(shuffle, "WINDOW_BYTES", 200)


# Hypothesis minds the state of `random`, by which types are checked, and a loader's thread has its types checked too.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    world=st.integers(1, 4),
    arcs_each=st.sampled_from([1, 2, 3]),
    rows=st.integers(1, 3),
    record_pairs=st.integers(1, 12),
    window_bytes=st.sampled_from([60, 300, 2**20]),
)
def test_every_pair_once_an_epoch_over_the_workers(
    counts: list[int], world: int, arcs_each: int, rows: int, record_pairs: int, window_bytes: int
) -> None:
    """Fewer shards than workers, records that straddle arcs, batches that straddle epochs: all included."""
    arcs = world * arcs_each
    if sum(counts) < arcs:
        counts = [*counts, arcs]
    batch, per_arc = arcs * rows, sum(counts) // arcs
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "WINDOW_BYTES", window_bytes)
        store = Path(temporary) / "store"
        numbered_store(store, counts, record_pairs)
        batches = -(-2 * per_arc // rows)  # two epochs
        ranks = [ids_of(store, BatchPart(batch, rank, world, arcs), batches) for rank in range(world)]
        # A worker's batch holds `rows` pairs of each of its arcs, arc after arc.
        streams = [
            [number for chunk in parts for number in chunk[arc * rows : (arc + 1) * rows]]
            for parts in ranks
            for arc in range(arcs_each)
        ]
        for epoch in range(2):
            met = Counter(n for stream in streams for n in stream[epoch * per_arc : (epoch + 1) * per_arc])
            assert set(met.values()) == {1}
            assert len(met) == per_arc * arcs > sum(counts) - arcs


@pytest.mark.usefixtures("small_windows")
def test_batches_do_not_depend_on_the_number_of_workers(store: Path) -> None:
    alone = global_batches(store, batch=24, world=1, arcs=4, count=9)
    for world in (2, 3, 4, 8, 24):
        assert global_batches(store, batch=24, world=world, arcs=4, count=9) == alone


def test_same_for_a_seed_different_by_seed_and_epoch(store: Path) -> None:
    two_epochs = global_batches(store, batch=8, world=2, arcs=2, count=24)
    assert global_batches(store, batch=8, world=2, arcs=2, count=24) == two_epochs
    assert global_batches(store, batch=8, world=2, arcs=2, count=24, seed=1) != two_epochs
    assert sorted(chain(*two_epochs[:12])) == sorted(chain(*two_epochs[12:])) == list(range(96))
    assert two_epochs[:12] != two_epochs[12:]


def test_shuffling_leaves_no_trace_of_the_stored_order(tmp_path: Path) -> None:
    """Neighbours in an epoch are not neighbours in the store: rank correlation as of a random permutation."""
    numbered_store(tmp_path / "store", [500, 500, 500])
    ids = list(chain(*ids_of(tmp_path / "store", BatchPart(10, 0, 1, 1), 150)))
    for lag in (1, 2, 10):
        assert scipy.stats.spearmanr(ids[:-lag], ids[lag:]).pvalue > 1e-3


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("taken", [0, 1, 5, 11, 12, 13, 30])
def test_resumes_in_mid_epoch_also_with_other_workers(store: Path, taken: int) -> None:
    undisturbed = global_batches(store, batch=8, world=1, arcs=4, count=taken + 9)
    with ShardLoader(store, read_index(store), BatchPart(8, 1, 2, 4), seed=0) as loader:
        for _ in islice(loader, taken):
            pass
        state = loader.state()
    assert json.loads(json.dumps(state)) == state
    for world in (1, 2, 4):
        ranks = [ids_of(store, BatchPart(8, rank, world, 4), 9, state=state) for rank in range(world)]
        assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == undisturbed[taken:]


def test_labels_are_read_only_where_asked_for(store: Path) -> None:
    with ShardLoader(store, read_index(store), BatchPart(4, 0, 1, 1), seed=0) as loader:
        assert next(loader).label is None


def damage(store: Path, how: str) -> None:
    tar = store / "shards" / "pairs-000001.tar"
    data = bytearray(tar.read_bytes())
    if how == "truncated":
        tar.write_bytes(data[: len(data) // 1024 * 512])
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        tar.write_bytes(data)
    else:
        tar.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [("truncated", "bytes, the index says"), ("flipped", "another SHA-256"), ("missing", "is missing")],
)
def test_a_damaged_shard_is_refused_where_it_is_used(store: Path, how: str, message: str) -> None:
    damage(store, how)
    with (
        ShardLoader(store, read_index(store), BatchPart(8, 0, 1, 1), seed=0) as loader,
        pytest.raises(InputError, match=rf"pairs-000001.tar'.*{message}"),
    ):
        for _ in islice(loader, 12):
            pass


def test_a_shard_that_reads_short_is_refused(store: Path) -> None:
    """The bytes are as hashed, but hold fewer pairs than the index says."""
    index = read_index(store)
    shards = tuple(
        type(s)(s.name, s.block, s.pairs + (s.name == "pairs-000001.tar"), s.records, s.bytes, s.sha256)
        for s in index.shards
    )
    longer = Index(**(vars(index) | {"shards": shards, "pairs": index.pairs + 1}))
    with (
        ShardLoader(store, longer, BatchPart(1, 0, 1, 1), seed=0) as loader,
        pytest.raises(InputError, match="holds 40 pairs, the index says 41"),
    ):
        for _ in islice(loader, 97):
            pass


def test_a_failed_loader_keeps_failing(store: Path) -> None:
    """It does not hang a caller that asks again."""
    damage(store, "missing")
    with ShardLoader(store, read_index(store), BatchPart(96, 0, 1, 1), seed=0) as loader:
        for _ in range(2):
            with pytest.raises(InputError):
                next(loader)


def test_leaving_early_stops_the_thread(store: Path) -> None:
    before = reading()
    with ShardLoader(store, read_index(store), BatchPart(4, 0, 1, 1), seed=0) as loader:
        next(loader)
    assert not reading() - before


GOOD = {"arcs": 4, "batch": 8, "epoch": 0, "position": 2, "seed": 0, "store": "0123456789abcdef"}


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({"lanes": 4, "epoch": 0, "position": 0}, r"has \['epoch', 'lanes', 'position'\], this loader reads"),
        ({"arcs": 4, "epoch": 0, "position": 2}, r"has \['arcs', 'epoch', 'position'\], this loader reads"),
        (GOOD | {"more": 1}, "has .*'more'.*, this loader reads"),
        ([4, 0, 0], "has list, this loader reads"),
        (None, "has NoneType, this loader reads"),
        (GOOD | {"arcs": 0}, "arcs=0 is no such value"),
        (GOOD | {"batch": "8"}, "batch='8' is no such value"),
        (GOOD | {"epoch": -1}, "epoch=-1 is no such value"),
        (GOOD | {"position": 0.5}, "position=0.5 is no such value"),
        (GOOD | {"position": 2.0}, "position=2.0 is no such value"),
        (GOOD | {"position": True}, "position=True is no such value"),
        (GOOD | {"position": 2**63}, "position=.* is no such value"),
        (GOOD | {"seed": None}, "seed=None is no such value"),
        (GOOD | {"store": 7}, "store=7 is no such value"),
    ],
)
def test_a_state_that_cannot_be_read_is_refused(state: Any, what: str) -> None:
    with pytest.raises(InputError, match=rf"^loader state: {what}.*; start from the beginning$"):
        check_form(state)
    assert check_form(GOOD) == GOOD


@pytest.mark.parametrize(
    ("part", "seed", "sentence"),
    [
        (BatchPart(8, arcs=1), 0, r"arcs=4, this loader has 1; give the same again or start"),
        (BatchPart(8, arcs=8), 0, r"arcs=4, this loader has 8; give the same again or start"),
        (BatchPart(16, arcs=4), 0, r"batch=8, this loader has 16; give the same again or start"),
        (BatchPart(8, arcs=4), 1, r"seed=0, this loader has 1; give the same again or start"),
    ],
)
def test_a_state_of_another_loader_is_refused(store: Path, part: BatchPart, seed: int, sentence: str) -> None:
    """Read there, it would be some other pair: an epoch would have pairs twice and others never."""
    index = read_index(store)
    with ShardLoader(store, index, BatchPart(8, arcs=4), 0) as loader:
        for _ in range(5):
            next(loader)
        state = loader.state()
    before = reading()
    with pytest.raises(InputError, match=f"^loader state: {sentence}"):
        ShardLoader(store, index, part, seed, state=state)
    assert not reading() - before


@pytest.mark.parametrize(
    ("position", "sentence"),
    [
        (24, "position=24 is beyond an epoch, which ends at 24; start"),
        (10**6, "position=1000000 is beyond an epoch, which ends at 24; start"),
        (3, "position=3 of epoch=0 is inside a batch, not where one of batch=8 begins; start"),
    ],
)
def test_a_position_where_no_batch_begins_is_refused(store: Path, position: int, sentence: str) -> None:
    index, part = read_index(store), BatchPart(8, arcs=4)
    with ShardLoader(store, index, part, 0) as loader:
        state = loader.state()
    with pytest.raises(InputError, match=f"^loader state: {sentence}"):
        ShardLoader(store, index, part, 0, state=state | {"position": position})


def test_a_state_of_another_store_is_refused(store: Path, tmp_path: Path) -> None:
    """Of other pairs in as many shards of the same sizes, or of more pairs; a copy is the same store."""
    with ShardLoader(store, read_index(store), BatchPart(8, arcs=4), 0) as loader:
        state = loader.state()
    i = np.arange(96, dtype=np.float32)[:, None]
    write_store(tmp_path / "others", i, i, shard_counts=[23, 40, 9, 24])
    numbered_store(tmp_path / "grown", [23, 40, 9, 24, 16])
    for other in ("others", "grown"):
        with pytest.raises(InputError, match=r"^loader state: store='.*', this loader has '.*'; give that store again"):
            ShardLoader(tmp_path / other, read_index(tmp_path / other), BatchPart(8, arcs=4), 0, state=state)
    shutil.copytree(store, tmp_path / "copy")
    assert ids_of(tmp_path / "copy", BatchPart(8, arcs=4), 3, state=state) == ids_of(store, BatchPart(8, arcs=4), 3)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"batch": 0}, "batch=0: give a whole number of at least 1"),
        ({"batch": -8}, "batch=-8: give a whole number of at least 1"),
        (
            {"batch": 100, "world": 3},
            "batch=100: counts the pairs of all workers, and world=3 does not divide it; give 102",
        ),
        (
            {"batch": 100, "arcs": 8},
            "batch=100: counts the pairs of all workers, and arcs=8 does not divide it; give 104",
        ),
        ({"batch": 8, "world": 3, "arcs": 8}, "batch=8: .* world=3 does not divide it; give 24"),
        ({"batch": 8, "rank": 2, "world": 2}, "rank=2: ranks count from 0, so with world=2 give at most 1"),
        ({"batch": 8, "rank": -1, "world": 2}, "rank=-1: give a whole number of at least 0"),
        ({"batch": 8, "world": 0}, "world=0: give a whole number of at least 1"),
        ({"batch": 8, "arcs": 0}, "arcs=0: give a whole number of at least 1"),
        ({"batch": 9, "arcs": 4, "short": True}, "batch=9: .* arcs=4 does not divide it; give 12"),
    ],
)
def test_parts_that_do_not_divide_a_batch_are_refused(numbers: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{sentence}"):
        BatchPart(**numbers)


def test_loaders_that_have_nothing_to_read_are_refused(store: Path) -> None:
    index = read_index(store)
    with pytest.raises(InputError, match=r"^arcs=97: more than the 96 pairs of the store; give fewer$"):
        ShardLoader(store, index, BatchPart(97, arcs=97), 0)
    for seed in (-1, 2**63):
        with pytest.raises(InputError, match=rf"^seed={seed}: give a whole number of at least 0"):
            ShardLoader(store, index, BatchPart(8), seed)


def test_a_loader_that_is_dropped_ends_its_thread(store: Path) -> None:
    before = reading()
    loader = ShardLoader(store, read_index(store), BatchPart(4), 0)
    next(loader)
    assert len(reading() - before) == 1
    del loader
    assert not left_since(before)


def test_a_closed_loader_says_so_rather_than_waits(store: Path) -> None:
    """Also what was read ahead is gone: `next` would return it first and then wait forever."""
    with ShardLoader(store, read_index(store), BatchPart(4), 0) as loader:
        next(loader)
    for _ in range(2):
        with pytest.raises(InputError, match=r"^loader: closed; make another one to go on from its state$"):
            next(loader)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_it_reads_is_refused_rather_than_waited_in(store: Path) -> None:
    """The child closes and drops its copy without a word; the parent goes on."""
    with ShardLoader(store, read_index(store), BatchPart(4), 0) as loader:
        next(loader)
        receive, send = os.pipe()
        if (child := os.fork()) == 0:
            signal.alarm(60)  # which ends the child if it waits
            try:
                next(loader)
            except InputError as error:
                os.write(send, str(error).encode())
            loader.__exit__()
            del loader
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        sentence = (
            "loader: forked while it reads; make one in each process, or give a DataLoader a flowpairs.PairDataset"
        )
        assert os.read(receive, 1000).decode() == sentence
        for descriptor in (receive, send):
            os.close(descriptor)
        assert len(list(islice(loader, 50))) == 50


def test_it_is_not_picklable_and_says_what_is(store: Path) -> None:
    with (
        ShardLoader(store, read_index(store), BatchPart(4), 0) as loader,
        pytest.raises(TypeError, match=r"cannot be pickled; use flowpairs\.PairDataset in other processes$"),
    ):
        pickle.dumps(loader)
