"""The public loader: one epoch an iteration, the same batches on any number of ranks, resumable to the batch."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.stores import numbered_store
from support.threads import left_since, reading
from torch.utils.data import DataLoader, IterableDataset

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.pairs.pair_loader import PairLoader
from flowpairs.training.pairs.reading import shuffle

WINDOW_BYTES = shuffle.WINDOW_BYTES

Ids = list[int]


def ids_of(batch: dict[str, torch.Tensor]) -> Ids:
    """The numbers of a batch's pairs; checks that its tensors belong together."""
    numbers = batch["x0"][:, 0]
    assert torch.equal(batch["x1"], torch.stack([-numbers, numbers + 0.5], 1))
    assert torch.equal(batch["label"], numbers.long() % 3)
    assert torch.equal(batch["data_id"], numbers.long())
    return numbers.long().tolist()


def epochs(store: Path, batch: int, count: int, world: int = 1, **options) -> list[list[list[Ids]]]:
    """Epoch -> step -> rank -> numbers of the pairs."""
    out = []
    loaders = [PairLoader(store, batch, rank=rank, world=world, **options) for rank in range(world)]
    for _ in range(count):
        ranks = [[ids_of(batch) for batch in loader] for loader in loaders]
        assert {len(batches) for batches in ranks} == {len(loaders[0])}
        out.append([list(step) for step in zip(*ranks, strict=True)])
    for loader in loaders:
        loader.close()  # a thread that goes on has its types checked by chance, and hypothesis minds its generator
    return out


def ranks(store: Path, batch: int, world: int) -> list[PairLoader]:
    return [PairLoader(store, batch, rank=rank, world=world) for rank in range(world)]


def joined(steps: list[list[Ids]]) -> list[Ids]:
    """Step -> numbers of all ranks, rank after rank."""
    return [list(chain(*ranks)) for ranks in steps]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """100 pairs in four shards, read in windows of a few pairs."""
    monkeypatch.setattr(shuffle, "WINDOW_BYTES", 200)
    numbered_store(tmp_path / "store", [23, 40, 9, 28])
    return tmp_path / "store"


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    world=st.sampled_from([1, 2, 3, 4, 6, 9]),
    each=st.integers(1, 5),
    drop=st.booleans(),
    window_bytes=st.sampled_from([60, 300, 2**20]),
)
def test_an_epoch_meets_every_pair_once_over_the_ranks(
    counts: list[int], world: int, each: int, drop: bool, window_bytes: int
) -> None:
    batch = world * each
    counts = [*counts, batch]
    pairs = sum(counts)
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "WINDOW_BYTES", window_bytes)
        numbered_store(Path(temporary) / "store", counts)
        for steps in epochs(Path(temporary) / "store", batch, 2, world, drop_last=drop):
            met = Counter(chain(*joined(steps)))
            assert set(met.values()) == {1}
            arcs = world if world > 8 else max(d for d in (1, 2, 4, 8) if batch % d == 0)
            rest = (pairs // arcs * arcs) % batch
            whole = pairs // arcs * arcs - rest
            assert len(met) == whole + (rest if not drop and rest >= world else 0)
            assert [[len(ids) for ids in ranks] for ranks in steps[: whole // batch]] == [[each] * world] * (
                whole // batch
            )
            assert all(ids for ranks in steps for ids in ranks)  # a rank without pairs would stop the others


def test_batches_do_not_depend_on_the_number_of_ranks(store: Path) -> None:
    alone = [joined(steps) for steps in epochs(store, 24, 3)]
    assert [len(ids) for ids in alone[0]] == [24, 24, 24, 24]  # 100 pairs in 8 arcs: 4 are left out, no short batch
    for world in (2, 3, 4, 8):
        assert [joined(steps) for steps in epochs(store, 24, 3, world)] == alone
    short = [joined(steps) for steps in epochs(store, 16, 2)]
    assert [len(ids) for ids in short[1]] == [16] * 6
    assert [joined(steps) for steps in epochs(store, 40, 2, 5)] == [joined(steps) for steps in epochs(store, 40, 2)]


def test_epochs_and_seeds_differ_and_repeat(store: Path) -> None:
    first = epochs(store, 10, 2)
    assert epochs(store, 10, 2) == first
    assert first[0] != first[1]
    assert sorted(chain(*joined(first[0]))) == sorted(chain(*joined(first[1]))) == list(range(100))
    assert epochs(store, 10, 2, seed=1) != first


@pytest.mark.parametrize("taken", [0, 1, 5, 9, 10, 23])
def test_a_state_is_exact_to_the_batch_for_other_ranks_too(store: Path, taken: int) -> None:
    """What was handed out counts, not what was read ahead; behind an epoch's last batch comes the next epoch."""
    whole = [joined(steps) for steps in epochs(store, 20, 6)]
    loader = PairLoader(store, 20, rank=1, world=2)
    assert [len(batches) for batches in whole] == [len(loader)] * 6 == [5] * 6
    batches = chain.from_iterable(iter(loader) for _ in range(6))
    for _ in islice(batches, taken):
        pass
    state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state
    for world in (1, 4, 5):
        loaders = [PairLoader(store, 20, rank=rank, world=world) for rank in range(world)]
        for loader in loaders:
            loader.load_state_dict(state)
            assert loader.state_dict() == state
        for epoch in range(taken // 5, 6):
            found = [list(map(ids_of, loader)) for loader in loaders]
            rest = taken % 5 if epoch == taken // 5 else 0
            assert joined(list(zip(*found, strict=True))) == whole[epoch][rest:]


def test_another_batch_size_goes_on_at_the_same_pair(store: Path) -> None:
    loader = PairLoader(store, 20)
    met = list(chain(*(ids_of(batch) for batch in islice(loader, 3))))
    smaller = PairLoader(store, 8)
    smaller.load_state_dict(loader.state_dict())
    assert sorted(met + list(chain(*map(ids_of, smaller)))) == list(range(100))


def test_an_iteration_that_was_left_early_is_over(store: Path) -> None:
    whole, loader = epochs(store, 10, 4), PairLoader(store, 10)
    for expected in whole:
        assert [[ids_of(batch)] for batch in islice(loader, 3)] == expected[:3]
    assert ids_of(next(iter(PairLoader(store, 10)))) == whole[0][0][0]
    loader = PairLoader(store, 10)
    for _ in range(3):
        iter(loader)  # takes nothing, so it begins no epoch
    assert ids_of(next(iter(loader))) == whole[0][0][0]


def test_set_epoch_begins_an_epoch(store: Path) -> None:
    whole, loader = [joined(steps) for steps in epochs(store, 10, 4)], PairLoader(store, 10)
    for epoch, taken in ((3, 10), (1, 4), (1, 10)):
        loader.set_epoch(epoch)
        assert [ids_of(batch) for batch in islice(loader, taken)] == whole[epoch][:taken]


def test_what_lightning_calls_sets_the_first_epoch_alone(store: Path) -> None:
    whole, loader = [joined(steps) for steps in epochs(store, 10, 4)], PairLoader(store, 10)
    loader.sampler.set_epoch(2)
    assert [ids_of(batch) for batch in islice(loader, 4)] == whole[2][:4]
    restored = PairLoader(store, 10)
    restored.load_state_dict(loader.state_dict())
    restored.sampler.set_epoch(3)
    assert list(map(ids_of, restored)) == whole[2][4:]
    restored.sampler.set_epoch(0)
    assert list(map(ids_of, restored)) == whole[3]


def test_one_iteration_at_a_time(store: Path) -> None:
    loader = PairLoader(store, 10)
    first, second = iter(loader), iter(loader)
    next(first)
    next(second)
    with pytest.raises(ValueError, match="another iteration has begun; make a second loader for that one"):
        next(first)
    assert len(list(second)) == 9
    with loader:
        third = iter(loader)
        next(third)
    with pytest.raises(ValueError, match=r"^PairLoader: closed, or"):
        next(third)


def test_fields_are_those_asked_for(store: Path) -> None:
    assert list(next(iter(PairLoader(store, 10)))) == ["x0", "x1", "label", "data_id"]
    loader = PairLoader(store, 10, fields=["label", "x1"])
    assert list(next(iter(loader))) == ["x1", "label"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 10, "world": 4, "rank": 0}, "batch_size=10: counts the pairs of all ranks, .* give 12"),
        ({"batch_size": 8, "world": 4, "rank": 4}, "rank=4: ranks count from 0, so with world=4 give at most 3"),
        ({"batch_size": 8, "world": 4, "rank": -1}, "rank=-1: give a whole number of at least 0"),
        ({"batch_size": 8, "world": 0, "rank": 0}, "world=0: give a whole number of at least 1"),
        ({"batch_size": 8, "rank": 1}, "rank=1, world=None: give both"),
        ({"batch_size": 101}, "batch_size=101: more than the 100 pairs of the store; lower it"),
        ({"batch_size": 0}, "batch_size=0: give a whole number of at least 1"),
        ({"batch_size": 8, "seed": 2**63}, r"seed=\d+: give a whole number of at least 0, below 2\^63"),
        ({"batch_size": 8, "seed": -1}, "seed=-1: give a whole number of at least 0"),
        ({"batch_size": 8, "fields": ["x0", "weight"]}, "fields: 'weight' is not in this store; choose among x0, x1"),
        ({"batch_size": 8, "fields": []}, r"fields=\[\]: give a list of names"),
        ({"batch_size": 8, "fields": "x0"}, "fields='x0': give a list of names"),
    ],
)
def test_mistakes_are_one_sentence(store: Path, options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        PairLoader(store, **options)


def test_stores_that_cannot_be_read_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such directory"):
        PairLoader(tmp_path / "nowhere", 8)
    (store / "shards" / "pairs-000001.tar").unlink()
    loader = PairLoader(store, 8)
    for _ in range(3):
        with pytest.raises(InputError, match=r"pairs-000001.tar'.*is missing"):
            list(loader)


def test_no_thread_is_left_when_it_is_dropped_or_closed(store: Path) -> None:
    before = reading()
    loader = PairLoader(store, 4)
    assert reading() == before
    next(iter(loader))
    assert len(reading() - before) == 1
    loader.close()
    assert not reading() - before
    for _ in PairLoader(store, 4):
        break
    with PairLoader(store, 4) as loader:
        next(iter(loader))
    del loader
    assert not left_since(before)


RANK = """
import json, sys
import torch.distributed as dist
from flowpairs import PairLoader

loader = PairLoader(sys.argv[1], 20)
alone = len(loader), loader.state_dict()
dist.init_process_group("gloo")
seen = [batch["data_id"].tolist() for _ in range(2) for batch in loader]
with open(f"{sys.argv[2]}/{dist.get_rank()}.json", "w") as file:
    json.dump([len(loader), seen], file)
store = alone[1].pop("store")
assert len(store) == 16
assert alone == (5, {"arcs": 4, "epoch": 0, "position": 0, "seed": 0, "pairs": 100})
dist.destroy_process_group()
"""


def test_rank_and_world_are_torch_distributeds_also_where_that_starts_later(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "WINDOW_BYTES", WINDOW_BYTES)  # as in other processes
    (tmp_path / "rank.py").write_text(RANK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(tmp_path / "rank.py"), str(store), str(tmp_path)]
    subprocess.run(command, check=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = [json.loads((tmp_path / f"{rank}.json").read_bytes()) for rank in range(2)]
    truth = [[batch["data_id"].tolist() for _ in range(2) for batch in loader] for loader in ranks(store, 20, 2)]
    assert found == [[5, batches] for batches in truth]


class Wrapped(IterableDataset):
    """What a user may try."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def __iter__(self):
        return iter(PairLoader(self.store, 4))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_in_a_dataloaders_worker_it_says_what_to_do(store: Path) -> None:
    with pytest.raises(ValueError, match=r"PairLoader in a DataLoader's worker: .* give the DataLoader a PairDataset"):
        next(iter(DataLoader(Wrapped(store), batch_size=None, num_workers=1, multiprocessing_context="fork")))


def tell(loader: PairLoader, iterator, into) -> None:
    for batches in (iterator, iter(loader)):
        try:
            next(batches)
        except ValueError as error:
            into.put(str(error))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_it_reads_is_refused_rather_than_waited_in(store: Path) -> None:
    loader, context = PairLoader(store, 4), multiprocessing.get_context("fork")
    iterator = iter(loader)
    next(iterator)
    answers = context.Queue()
    process = context.Process(target=tell, args=(loader, iterator, answers))
    process.start()
    sentence = "loader: forked while it reads; make one in each process, or give a DataLoader a flowpairs.PairDataset"
    assert [answers.get(timeout=60) for _ in range(2)] == [sentence] * 2
    process.join(60)
    assert len(list(iterator)) == 24  # here it goes on


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_as_the_data_set_of_a_dataloader_it_says_what_to_do(store: Path, workers: int) -> None:
    loader = PairLoader(store, 4)
    next(iter(loader))
    context = "fork" if workers else None
    with pytest.raises(TypeError, match=r"PairLoader is no data set; .* give the DataLoader a flowpairs\.PairDataset"):
        next(iter(DataLoader(loader, num_workers=workers, multiprocessing_context=context)))  # type: ignore[arg-type]


def test_it_is_not_picklable_and_says_what_is(store: Path) -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled; use flowpairs.PairDataset"):
        pickle.dumps(PairLoader(store, 4))
