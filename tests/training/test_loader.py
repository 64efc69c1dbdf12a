"""The loader: exactly once an epoch over the workers, really shuffled, repeatable, resumable, and never short."""

import tempfile
import threading
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.stores import numbered_store

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.store.format import Index, read_index
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader, check_state
from flowpairs.training.pairs.reading import shuffle

Ids = list[int]


def ids_of(
    store: Path, part: BatchPart, batches: int, *, seed: int = 0, state: dict[str, int] | None = None
) -> list[Ids]:
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
    assert all(isinstance(number, int) for number in state.values())
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
    """Its own thread: that of a loader which another test dropped may still be about to end."""
    before = set(threading.enumerate())

    def ours() -> list[str]:
        return [thread.name for thread in set(threading.enumerate()) - before]

    with ShardLoader(store, read_index(store), BatchPart(4, 0, 1, 1), seed=0) as loader:
        next(loader)
        assert "pair-loader" in ours()
    assert "pair-loader" not in ours()


@pytest.mark.parametrize(
    "state",
    [
        {"lanes": 4, "epoch": 0, "position": 0},
        {"arcs": 4, "epoch": 0},
        {"arcs": 0, "epoch": 0, "position": 0},
        {"arcs": 4, "epoch": -1, "position": 0},
        {"arcs": 4, "epoch": 0, "position": 0.5},
        [4, 0, 0],
    ],
)
def test_a_state_that_cannot_be_read_is_refused(state: Any) -> None:
    with pytest.raises(InputError, match=r"^loader state: .*; start from the beginning$"):
        check_state(state)
