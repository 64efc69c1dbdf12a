"""The reference of the Frechet distance is the data set: every datum once, however often it was paired."""

from pathlib import Path

import numpy as np
from support.stores import write_store

from flowpairs.training.pairs.reference import read_reference


def test_every_datum_once_in_order_of_appearance(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    data, labels = generator.normal(size=(50, 3)).astype(np.float32), generator.integers(4, size=50)
    ids = generator.integers(50, size=400)
    index = write_store(
        tmp_path / "store",
        generator.normal(size=(400, 3)),
        data[ids],
        ids=ids,
        labels=labels[ids],
        shard_counts=[150, 250],
        record_pairs=32,
    )
    reference = read_reference(tmp_path / "store", index)
    order = list(dict.fromkeys(ids.tolist()))
    np.testing.assert_array_equal(reference.x.numpy(), data[order])
    assert reference.label is not None
    np.testing.assert_array_equal(reference.label.numpy(), labels[order])
