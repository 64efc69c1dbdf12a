"""Noise of one's own paired by stored potentials, as a plain float64 loop pairs it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.matchings import partners, potential_store
from support.rowsets import column, stored
from support.stores import numbered_store
from torch.utils.data import DataLoader, IterableDataset

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.pairs.assigner import Assigner

SHAPE, CLASSES = (2, 3), 4
KINDS: dict[str, dict[str, Any]] = {
    "blind": {},
    "mirrored, on principal directions": {"flips": True, "pca": 4},
    "entropic": {"eps": 0.7},
    "by class": {"condition": "class", "flips": True},
    "by class, entropic": {"condition": "class", "eps": 0.5},
    "extended": {"condition": "extended", "beta": 2.5, "pca": 3},
    "extended by a file": {"condition": "extended", "beta": 0.8, "eps": 0.3},
}


def make(directory: Path, name: str) -> Path:
    generator = np.random.default_rng(0)
    x, labels = generator.normal(size=(60, *SHAPE)), generator.permutation(np.arange(60) % CLASSES)
    options = dict(KINDS[name])
    if name == "extended by a file":
        np.save(directory / "z.npy", generator.normal(size=(60, 2)).astype(np.float32))
        options["condition_file"] = str(directory / "z.npy")
    potential_store(directory / "store", x.astype(np.float32), labels, **options)
    return directory / "store"


def conditions(name: str, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    if name == "extended by a file":
        return {"z": torch.randn(count, 2, generator=generator)}
    labelled = "condition" in KINDS[name]
    return {"labels": torch.randint(CLASSES, (count,), generator=generator)} if labelled else {}


@pytest.mark.parametrize("name", KINDS)
def test_partners_are_those_of_a_plain_loop(name: str, tmp_path: Path) -> None:
    store, count = make(tmp_path, name), 300
    x0, given = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1)), conditions(name, count)
    u = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).numpy()
    assign = Assigner(store)
    x1, ids = assign(x0, **given, generator=torch.Generator().manual_seed(2))
    truth = partners(store, x0.flatten(1).numpy(), u, next((c.numpy() for c in given.values()), None))
    assert ids.tolist() == truth.tolist()
    assert len(set(truth.tolist())) > 20
    data = stored(store)
    both = np.concatenate([data, data[..., ::-1]])
    np.testing.assert_array_equal(x1.numpy(), both[truth])
    labels = column(store)[truth % 60]
    assert assign.labels(ids).tolist() == labels.tolist()
    if KINDS[name].get("condition") == "class":
        assert labels.tolist() == given["labels"].tolist()
    again, parts = pickle.loads(pickle.dumps(assign)), torch.Generator().manual_seed(2)
    halves = [
        again(x0[rows], **{key: c[rows] for key, c in given.items()}, generator=parts)[1]
        for rows in (slice(0, 130), slice(130, count))
    ]
    assert torch.cat(halves).tolist() == truth.tolist()  # however noise is batched


def test_a_pickle_holds_where_the_store_is(tmp_path: Path) -> None:
    assert len(pickle.dumps(Assigner(make(tmp_path, "blind")))) < 2000


class Fresh(IterableDataset):
    """Pairs that a worker makes."""

    def __init__(self, assign: Assigner) -> None:
        self.assign = assign

    def __iter__(self):
        generator = torch.Generator().manual_seed(3)
        for _ in range(3):
            x0 = torch.randn(20, *SHAPE, generator=generator)
            yield (x0, *self.assign(x0))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_it_works_in_a_dataloaders_worker(tmp_path: Path, start: str) -> None:
    data = Fresh(Assigner(make(tmp_path, "mirrored, on principal directions")))
    found = list(DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=start))
    for ours, theirs in zip(found, data, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)


def test_gradients_and_types_stay_out_of_it(tmp_path: Path) -> None:
    assign, x0 = Assigner(make(tmp_path, "blind")), torch.randn(5, *SHAPE)
    x1, ids = assign(x0.double().requires_grad_())
    assert (x1.dtype, ids.dtype, x1.requires_grad) == (torch.float32, torch.int64, False)
    assert ids.tolist() == assign(x0)[1].tolist()
    assert assign(x0[:0])[0].shape == (0, *SHAPE)


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        (
            "blind",
            {"labels": torch.zeros(3, dtype=torch.int64)},
            "labels: the potentials do not depend on it; leave it out",
        ),
        ("blind", {"z": torch.zeros(3, 2)}, "z: the potentials do not depend on it; leave it out"),
        ("by class", {}, r"labels: the potentials depend on it \(coupling.condition=class\); give it"),
        ("by class", {"labels": torch.tensor([0, 1, 4])}, "labels: 4 is none of the data's"),
        ("extended", {"labels": torch.tensor([0, -1, 2])}, "labels: -1 is none of the data's"),
        ("by class", {"labels": torch.tensor([0, 1])}, "labels: 2 for 3 noises; give one each"),
        ("extended by a file", {"z": torch.zeros(3, 5)}, "z: 5 numbers per noise; the data have 2"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(name: str, given: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Assigner(make(tmp_path, name))(torch.zeros(3, *SHAPE), **given)


def test_noise_and_stores_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    assign = Assigner(store := make(tmp_path, "blind"))
    with pytest.raises(ValueError, match=r"x0: noise of shape \[3, 2\]; the data have \[2, 3\]"):
        assign(torch.zeros(3, 3, 2))
    with pytest.raises(ValueError, match="x0: has NaN or Inf"):
        assign(torch.full((3, *SHAPE), torch.nan))
    (store / "potentials" / "g.npy").unlink()
    with pytest.raises(InputError, match="no potentials of a semi-discrete coupling"):
        Assigner(store)
    numbered_store(tmp_path / "pairs", [10])
    with pytest.raises(ValueError, match="of method independent, which has no potentials; use its pairs"):
        Assigner(tmp_path / "pairs")
