"""The map-style dataset: every payload's pairs bit for bit, in any order, in workers of any kind."""

import json
import multiprocessing
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.stores import numbered_store, write_store
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.pairs.dataset import PairDataset
from flowpairs.training.pairs.pair_loader import PairLoader

CONFORMANCE = Path(__file__).parents[1] / "conformance"
sys.path.insert(0, str(CONFORMANCE))

import generate  # noqa: E402  # writes and knows the stores without this project

RECORDS = [(block, ids, rows) for block, records in generate.SHARDS for _, ids, rows in records]


def expected(name: str) -> dict[str, np.ndarray]:
    """The pairs of a conformance store, in order, by its generator."""
    ids = [i for _, some, _ in RECORDS for i in some]
    rows = [row for _, _, some in RECORDS for row in some]
    out = {
        "x1": generate.of(generate.DATA, ids),
        "label": np.array([generate.LABELS[i % 5] for i in ids]),
        "data_id": np.array(ids),
    }
    source = generate.sources(name, rows)
    if source is None:
        out["x0"] = np.stack([generate.noise(row, 12).reshape(1, 3, 4) for row in rows])
    else:
        out["x0"] = generate.of(generate.SOURCE if name == "two-sided" else generate.DATA, source)
        out["source_id"] = np.array(source)
    if name == "chain":
        out["span"] = np.array([generate.SPANS[block] for block, some, _ in RECORDS for _ in some], np.float32)
    return out


def same(found: dict[str, torch.Tensor], truth: dict[str, np.ndarray], which: Sequence[int]) -> None:
    assert set(found) == set(truth)
    for name, tensor in found.items():
        values = truth[name][list(which)]
        assert (tensor.numpy().dtype, tensor.shape) == (values.dtype, values.shape), name
        assert tensor.numpy().tobytes() == values.tobytes(), name


@pytest.mark.parametrize("name", generate.STORES)
def test_every_payload_is_read_bit_for_bit(name: str) -> None:
    data, truth = PairDataset(CONFORMANCE / name), expected(name)
    assert len(data) == 10
    same(data[:], truth, range(10))
    for which in ([7, 0, 7, 3, 9], [4], [], [-1, -10]):
        same(data[which], truth, which)
        same(data[np.array(which, np.int64)], truth, which)
        same(data[torch.tensor(which, dtype=torch.int64)], truth, which)
    same(data[8:1:-3], truth, [8, 5, 2])
    for number in (*range(-10, 10), np.int64(3), torch.tensor(3)):
        item = data[number]
        same({name: tensor[None] for name, tensor in item.items()}, truth, [number])
    batch = torch.utils.data.default_collate(data.__getitems__([2, 8, 2]))
    same(batch, truth, [2, 8, 2])


@pytest.mark.parametrize("name", generate.STORES)
def test_the_loader_hands_out_the_same_pairs(name: str) -> None:
    truth = expected(name)
    for batch in PairLoader(CONFORMANCE / name, 2):
        rows = [
            next(row for row in range(10) if all((truth[key][row] == batch[key][i].numpy()).all() for key in truth))
            for i in range(2)
        ]
        same(batch, truth, rows)


def test_fields_are_those_asked_for() -> None:
    assert list(PairDataset(CONFORMANCE / "full", fields=["data_id", "x1"])[0]) == ["x1", "data_id"]
    with pytest.raises(ValueError, match="'span' is not in this store"):
        PairDataset(CONFORMANCE / "full", fields=["span"])


@pytest.mark.parametrize("number", [10, -11, [0, 10]])
def test_beyond_the_store_is_an_index_error(number: int | list[int]) -> None:
    with pytest.raises(IndexError, match=r"pair (10|-11): the store has 10 pairs"):
        PairDataset(CONFORMANCE / "full")[number]


@pytest.mark.parametrize("which", ["x0", 1.5, [0.5], [True, False], [[0]], None])
def test_other_indices_are_type_errors(which: object) -> None:
    with pytest.raises(TypeError, match="takes a number, a slice or a list of numbers"):
        PairDataset(CONFORMANCE / "full")[which]


def test_weights_are_read_where_pairs_have_them(tmp_path: Path) -> None:
    x, weights = np.zeros((20, 3)), np.arange(20) / 7
    write_store(tmp_path / "store", x, x, weights=weights, shard_counts=[9, 11], record_pairs=4)
    assert PairDataset(tmp_path / "store")[3:15]["weight"].tolist() == weights.astype(np.float32)[3:15].tolist()
    for batch in PairLoader(tmp_path / "store", 5):
        assert batch["weight"].tolist() == weights.astype(np.float32)[batch["data_id"]].tolist()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    numbered_store(tmp_path / "store", [23, 40, 9, 24])
    return tmp_path / "store"


def numbers(batch: dict[str, torch.Tensor]) -> list[int]:
    """The numbers of a batch's pairs; checks that its tensors belong together."""
    found = batch["x0"][:, 0]
    assert torch.equal(batch["x1"], torch.stack([-found, found + 0.5], 1))
    assert torch.equal(batch["data_id"], found.long())
    return found.long().tolist()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_under_a_distributed_sampler_read_every_pair_once(store: Path, start: str) -> None:
    data, met = PairDataset(store), []
    assert numbers(data[:5]) == [0, 1, 2, 3, 4]  # a shard was read from before the fork
    for rank in range(2) if start == "fork" else [1]:
        sampler = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=True)
        loader = DataLoader(data, batch_size=7, num_workers=2, sampler=sampler, multiprocessing_context=start)
        met += [n for batch in loader for n in numbers(batch)]
        assert met[-48:] == list(sampler)
    assert start == "spawn" or sorted(met) == list(range(96))


def test_a_sampler_of_batches_gets_them_stacked(store: Path) -> None:
    data = PairDataset(store)
    batches = DataLoader(data, batch_size=None, sampler=BatchSampler(SequentialSampler(data), 10, drop_last=False))
    assert [numbers(batch) for batch in batches] == [list(range(96))[i : i + 10] for i in range(0, 96, 10)]


def test_a_pickle_holds_where_the_store_is_and_no_pairs(store: Path) -> None:
    data = PairDataset(store, fields=["x1"])
    assert len(data[:]["x1"]) == 96
    pickled = pickle.dumps(data)
    assert len(pickled) < 3000
    assert torch.equal(pickle.loads(pickled)[:]["x1"], data[:]["x1"])
    ids = PairDataset(CONFORMANCE / "ids")
    assert len(ids[:]["x1"]) == 10  # its copy of the data set is mapped by now
    assert len(pickle.dumps(ids)) < 3000


def damaged(data: PairDataset, into) -> None:
    try:
        into.put(len(data[30:40]["x0"]))
    except ValueError as error:
        into.put(str(error))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_shard_is_hashed_before_a_process_first_reads_it_and_not_again(store: Path) -> None:
    seen, unseen, path = PairDataset(store), PairDataset(store), store / "shards" / "pairs-000001.tar"
    assert len(seen[25:30]["x0"]) == 5
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the padding behind the records
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"pairs-000001.tar'.*another SHA-256"):
        unseen[30]
    assert len(unseen[:23]["x0"]) == 23
    assert len(seen[25:30]["x0"]) == 5
    for start, answer in (("fork", 10), ("spawn", "another SHA-256")):  # a fork has what its parent had
        context = multiprocessing.get_context(start)
        answers = context.Queue()
        process = context.Process(target=damaged, args=(seen, answers))
        process.start()
        found = answers.get(timeout=120)
        assert found == answer if start == "fork" else answer in found
        process.join(60)
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        PairDataset(store)[30]


def test_ids_alone_are_read_where_a_record_has_no_other_array_of_them(tmp_path: Path) -> None:
    """In payload full they stand in meta.json, whose record has its length from x0 and x1."""
    x, ids = np.zeros((150, 2), np.float32), np.arange(150)[::-1]
    write_store(tmp_path, x, x, ids=ids)
    np.testing.assert_array_equal(PairDataset(tmp_path, fields=["data_id"])[:]["data_id"], ids)


def test_potentials_without_pairs_are_refused(store: Path) -> None:
    index = json.loads((store / "index.json").read_bytes())
    (store / "index.json").write_text(json.dumps(index | {"pairs": 0, "shards": []}))
    for use in (PairDataset, lambda where: PairLoader(where, 4)):
        with pytest.raises(ValueError, match=r"potentials without pairs; use flowpairs\.Assigner"):
            use(store)
