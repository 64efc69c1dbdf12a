"""Three payloads, one set of pairs: bit by bit the same, converted or coupled, and checked by computing them again."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from support.couplings import settings, shard_bytes

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.convert import convert
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.data import check_data
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.make import save_target, target_of
from flowpairs.pipeline.recompute import recompute
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.records import Decoder, samples
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.pairs.reading.order import Stretch
from flowpairs.training.pairs.reading.shards import ShardReader

PAYLOADS = ("full", "seeded", "ids")
NAMES = ("x0", "x1", "label", "data_ids")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("payloads")
    for payload in PAYLOADS:
        couple(settings(root / payload, data={"flips": True}, output={"payload": payload, "pairs": 900}))
    return {payload: root / payload for payload in PAYLOADS}


def pairs(directory: Path) -> dict[str, np.ndarray]:
    index = format.read_index(directory)
    decoder = Decoder(directory, index)
    parts = [
        decoder.decode(fields, NAMES)
        for shard in index.shards
        for _, fields in samples(directory / "shards" / shard.name)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}


def test_all_payloads_hold_the_same_pairs(stores: dict[str, Path]) -> None:
    full = pairs(stores["full"])
    assert len(full["x0"]) == 900
    assert full["data_ids"].max() >= 1797  # mirror images take part
    for payload in ("seeded", "ids"):
        other = pairs(stores[payload])
        for name in NAMES:
            np.testing.assert_array_equal(other[name], full[name])
        assert verify(stores[payload]).faults == []


@pytest.mark.parametrize("payload", PAYLOADS)
def test_pieces_are_small_however_many_pairs_a_record_holds(stores: dict[str, Path], payload: str) -> None:
    """A shard of ids is one record; what is looked up for it at once must not be."""
    index, whole = format.read_index(stores[payload]), pairs(stores[payload])
    reader = ShardReader(stores[payload], index, ("x0", "x1", "label"))
    assert reader.step == 2**20 // (2 * 4 * 64)
    reader.step = 7
    stretches = [Stretch(number, 3, shard.pairs) for number, shard in enumerate(index.shards)]
    pieces = list(reader.read(stretches))
    assert max(len(piece["x0"]) for piece in pieces) == 7
    firsts = np.cumsum([0, *(shard.pairs for shard in index.shards)])
    kept = np.concatenate([np.arange(a + 3, b) for a, b in pairwise(firsts)])
    for name in reader.fields:
        np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces]), whole[name][kept])


def test_ids_take_at_most_twelve_bytes_a_pair(stores: dict[str, Path]) -> None:
    index = format.read_index(stores["ids"])
    for shard in index.shards:
        for _, fields in samples(stores["ids"] / "shards" / shard.name):
            arrays = sum(len(value) - 128 for name, value in fields.items() if name.endswith(".npy"))
            assert arrays <= 12 * shard.pairs
            assert len(fields["meta.json"]) < 100


@pytest.mark.parametrize("made_from", PAYLOADS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_converted_store_is_the_coupled_one(
    stores: dict[str, Path], tmp_path: Path, made_from: str, payload: str
) -> None:
    convert(stores[made_from], tmp_path / "converted", payload)
    assert shard_bytes(tmp_path / "converted") == shard_bytes(stores[payload])
    assert (tmp_path / "converted" / "index.json").read_bytes() == (stores[payload] / "index.json").read_bytes()


def test_an_interrupted_conversion_goes_on(stores: dict[str, Path], tmp_path: Path) -> None:
    converted = tmp_path / "converted"
    convert(stores["full"], converted, "ids")
    whole, kept = shard_bytes(converted), converted / "shards" / "pairs-000000.tar"
    (converted / "index.json").unlink()
    last = sorted(converted.glob("shards/*.json"))[-1]
    last.unlink()
    last.with_suffix(".tar").write_bytes(b"cut off")
    before = kept.stat().st_mtime_ns
    convert(stores["full"], converted, "ids")
    assert shard_bytes(converted) == whole
    assert kept.stat().st_mtime_ns == before
    after = last.stat().st_mtime_ns
    convert(stores["full"], converted, "ids")  # a complete one is left alone
    assert last.stat().st_mtime_ns == after
    with pytest.raises(InputError, match=r"destination '.*': holds other pairs; output.payload"):
        convert(stores["full"], converted, "seeded")


def test_converting_refuses_what_cannot_be(stores: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"output.payload='tiny'"):
        convert(stores["full"], tmp_path / "x", "tiny")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        convert(stores["full"], tmp_path / "occupied", "ids")


def test_computing_again_finds_the_same_bits_and_any_other(stores: dict[str, Path], tmp_path: Path) -> None:
    """A store whose shard was made with another seed is whole by itself, and still found out."""
    assert recompute(stores["seeded"], 2) == []
    forged = tmp_path / "forged"
    convert(stores["full"], forged, "full")
    couple(settings(tmp_path / "other", data={"flips": True}, source={"seed": 1}, output={"pairs": 900}))
    index, other = format.read_index(forged), format.read_index(tmp_path / "other")
    for suffix in (".tar", ".json"):
        name = (Path("shards") / index.shards[0].name).with_suffix(suffix)
        (forged / name).chmod(0o644)
        (forged / name).write_bytes((tmp_path / "other" / name).read_bytes())
    shards = (other.shards[0], *index.shards[1:])
    format.write_index(forged, format.Index(**{**vars(index), "shards": shards}))
    assert verify(forged).faults == []
    assert "pairs-000000.tar: sha256" in recompute(forged, 1)[0]


def test_other_data_beside_a_store_of_ids_are_found(stores: dict[str, Path], tmp_path: Path) -> None:
    convert(stores["ids"], tmp_path / "s", "ids")
    rows = tmp_path / "s" / "rows"
    target = row_set.open_target(rows)
    x = target.rows.whole() + np.float32(1)
    row_set.clear(rows)
    config = DataConfig(path="digits")
    save_target(target_of(config, check_data(config), x, {"label": target.labels}), rows)
    assert row_set.damages(rows) == []
    assert "not the data that were coupled" in verify(tmp_path / "s").faults[0]


def test_noise_rows_in_any_order() -> None:
    rows = np.array([5, 6, 7, 3, 9, 8, 10, 0])
    whole = noise.gaussian(2, 0, 11, 12)
    np.testing.assert_array_equal(noise.gaussian_rows(2, rows, 12), whole[rows])
    assert noise.gaussian_rows(2, rows[:0], 12).shape == (0, 12)
