"""The conformance stores, written by generate.py without the project, against our reader, our checks and our writer."""

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import generate
import numpy as np
import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.convert import convert
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.records import Decoder, Record, samples
from flowpairs.pipeline.store.verify import verify
from flowpairs.pipeline.store.writer import write_shard
from flowpairs.training.pairs.reading.order import Stretch
from flowpairs.training.pairs.reading.shards import ShardReader

HERE = Path(__file__).parent
RECORDS = [(block, *parts) for block, records in generate.SHARDS for parts in records]


def expected(store: str, block: int, ids: list[int], rows: list[int]) -> dict[str, np.ndarray]:
    """Pairs by the generator's own arithmetic, with mirror images made by numpy."""
    both = {
        name: np.concatenate([data, np.flip(data, 3)])
        for name, data in (("data", generate.DATA), ("source", generate.SOURCE))
    }
    chosen = generate.sources(store, rows)
    if chosen is None:
        side = {"x0": np.stack([generate.noise(row, 12).reshape(1, 3, 4) for row in rows]), "rows": np.array(rows)}
    else:
        side = {"x0": both["source" if store == "two-sided" else "data"][chosen], "source_ids": np.array(chosen)}
    if store == "chain":
        side["span"] = np.array([generate.SPANS[block]] * len(rows), np.float32)
    return side | {
        "x1": both["data"][ids],
        "label": np.tile(generate.LABELS, 2)[ids],
        "data_ids": np.array(ids),
    }


@pytest.mark.parametrize("store", generate.STORES)
def test_the_committed_store_is_what_the_generator_writes(store: str, tmp_path: Path) -> None:
    generate.write(tmp_path, store)
    committed = {path.relative_to(HERE / store): path for path in (HERE / store).rglob("*.*")}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")} == committed.keys()
    for name, path in committed.items():
        assert (tmp_path / name).read_bytes() == path.read_bytes(), name


@pytest.mark.parametrize("store", generate.STORES)
def test_our_reader_reads_it_bit_for_bit(store: str) -> None:
    index = format.read_index(HERE / store)
    decoder = Decoder(HERE / store, index)
    found = [sample for shard in index.shards for sample in samples(HERE / store / "shards" / shard.name)]
    assert [key for key, _ in found] == [f"b{block:06d}-r{first:09d}" for block, first, _, _ in RECORDS]
    for (_, fields), (block, _, ids, rows) in zip(found, RECORDS, strict=True):
        for name, values in expected(store, block, ids, rows).items():
            read = decoder.decode(fields, [name])[name]
            assert (read.dtype, read.tobytes()) == (values.dtype, values.tobytes())


@pytest.mark.parametrize("store", generate.STORES)
def test_the_loader_reads_it_bit_for_bit(store: str) -> None:
    index = format.read_index(HERE / store)
    stretches = [Stretch(number, 0, shard.pairs) for number, shard in enumerate(index.shards)]
    pieces = list(ShardReader(HERE / store, index, ("x0", "x1", "label")).read(stretches))
    for piece, (block, _, ids, rows) in zip(pieces, RECORDS, strict=True):
        for name, values in piece.items():
            assert values.tobytes() == expected(store, block, ids, rows)[name].tobytes()


@pytest.mark.parametrize("store", generate.STORES)
def test_it_is_whole_by_our_checks(store: str) -> None:
    verdict = verify(HERE / store)
    assert verdict.faults == []
    assert (verdict.shards, verdict.records, verdict.pairs) == (3, 4, 10)


@pytest.mark.parametrize("store", generate.STORES)
def test_our_writer_writes_the_same_bytes(store: str, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number, (block, records) in enumerate(generate.SHARDS):
        made = []
        for first, ids, rows in records:
            pairs = expected(store, block, ids, rows)
            made.append(
                Record(
                    first,
                    pairs["x0"],
                    pairs["x1"],
                    pairs["data_ids"],
                    pairs["label"],
                    generate.SEED if "rows" in pairs else None,
                    pairs.get("rows"),
                    source_ids=pairs.get("source_ids"),
                    span=tuple(generate.SPANS[block]) if store == "chain" else None,
                )
            )
        counter = None if made[0].rows is None else made[0].rows[0].item()
        report = {"block": block, "method": "imported"}
        write_shard(tmp_path, number, block, made, counter, report, generate.STORES[store])
    for path in (HERE / store / "shards").iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes(), path.name


def test_tarfile_and_numpy_alone_read_the_full_payload() -> None:
    with tarfile.open(HERE / "full" / "shards" / "pairs-000002.tar") as tar:
        read = {name.partition(".")[2]: io.BytesIO(tar.extractfile(name).read()) for name in tar.getnames()}
        assert all(member.mtime == 0 and member.isreg() for member in tar)
        for name in ("x0", "x1", "label"):
            np.testing.assert_array_equal(np.load(read[f"{name}.npy"]), expected("full", 1, *RECORDS[-1][2:])[name])


@pytest.mark.parametrize("store", ["full", "ids", "two-sided"])
def test_our_fingerprint_of_the_arrays_is_the_generators(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory, cut into parts of as many bytes as three of the generator's rows have."""
    index = format.read_index(HERE / store)
    monkeypatch.setattr(row_set, "PART_BYTES", 3 * generate.DATA[0].nbytes)
    assert row_set.fingerprint_of(generate.DATA, {"label": generate.LABELS}) == index.data_fingerprint
    if store == "two-sided":
        monkeypatch.setattr(row_set, "PART_BYTES", 3 * generate.IMAGES[0].nbytes)
        assert row_set.fingerprint_of(generate.IMAGES, {}) == index.source_fingerprint


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_pages_own_lines_read_rows_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """With numpy and webdataset alone, from float32 and from uint8 rows."""
    page = (HERE.parents[1] / "docs" / "pair-format.md").read_text()
    lookup, pairs = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "DIR/" in block)
    monkeypatch.chdir(HERE)
    found: dict[str, Any] = {}
    exec(lookup.replace("DIR", "ids"), found)
    exec(pairs.replace("DIR", "ids"), found)
    np.testing.assert_array_equal(found["pairs"], generate.of(generate.DATA, generate.SHARDS[0][1][1][1]))
    for i in range(10):
        np.testing.assert_array_equal(found["x1"](i), generate.of(generate.DATA, [i])[0])
    exec(lookup.replace("DIR/rows", "two-sided/source_rows"), found)
    for i in range(6):
        np.testing.assert_array_equal(found["x1"](i), generate.of(generate.SOURCE, [i])[0])


def test_a_store_without_config_cannot_be_converted_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config.yaml.*no such file"):
        convert(HERE / "full", tmp_path / "out", "ids")
