"""The conformance stores, written by generate.py without the project, against our reader, our checks and our writer."""

import io
import tarfile
from pathlib import Path

import generate
import numpy as np
import pytest

from pipeline.convert import convert
from pipeline.errors import InputError
from pipeline.store import format
from pipeline.store.records import Decoder, Record, samples
from pipeline.store.verify import verify
from pipeline.store.writer import write_shard
from training.order import Stretch
from training.shards import ShardReader

HERE = Path(__file__).parent
PAYLOADS = ("full", "seeded", "ids")
RECORDS = [(block, *parts) for block, records in generate.SHARDS for parts in records]


def expected(ids: list[int], rows: list[int]) -> dict[str, np.ndarray]:
    """Pairs by the generator's own arithmetic, with mirror images made by numpy."""
    both = np.concatenate([generate.DATA, np.flip(generate.DATA, 3)])
    return {
        "x0": np.stack([generate.noise(row, 12).reshape(1, 3, 4) for row in rows]),
        "x1": both[ids],
        "label": np.tile(generate.LABELS, 2)[ids],
        "data_ids": np.array(ids),
        "rows": np.array(rows),
    }


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_committed_store_is_what_the_generator_writes(payload: str, tmp_path: Path) -> None:
    generate.write(tmp_path, payload)
    committed = {path.relative_to(HERE / payload): path for path in (HERE / payload).rglob("*.*")}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")} == committed.keys()
    for name, path in committed.items():
        assert (tmp_path / name).read_bytes() == path.read_bytes(), name


@pytest.mark.parametrize("payload", PAYLOADS)
def test_our_reader_reads_it_bit_for_bit(payload: str) -> None:
    index = format.read_index(HERE / payload)
    decoder = Decoder(HERE / payload, index)
    found = [sample for shard in index.shards for sample in samples(HERE / payload / "shards" / shard.name)]
    assert [key for key, _ in found] == [f"b{block:06d}-r{first:09d}" for block, first, _, _ in RECORDS]
    for (_, fields), (_, _, ids, rows) in zip(found, RECORDS, strict=True):
        for name, values in expected(ids, rows).items():
            read = decoder.decode(fields, [name])[name]
            assert (read.dtype, read.tobytes()) == (values.dtype, values.tobytes())


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_loader_reads_it_bit_for_bit(payload: str) -> None:
    index = format.read_index(HERE / payload)
    stretches = [Stretch(number, 0, shard.pairs) for number, shard in enumerate(index.shards)]
    pieces = list(ShardReader(HERE / payload, index, ("x0", "x1", "label")).read(stretches))
    for piece, (_, _, ids, rows) in zip(pieces, RECORDS, strict=True):
        for name, values in piece.items():
            assert values.tobytes() == expected(ids, rows)[name].tobytes()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_it_is_whole_by_our_checks(payload: str) -> None:
    verdict = verify(HERE / payload)
    assert verdict.faults == []
    assert (verdict.shards, verdict.records, verdict.pairs) == (3, 4, 10)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_our_writer_writes_the_same_bytes(payload: str, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number, (block, records) in enumerate(generate.SHARDS):
        made = []
        for first, ids, rows in records:
            pairs = expected(ids, rows)
            made.append(
                Record(first, pairs["x0"], pairs["x1"], pairs["data_ids"], pairs["label"], generate.SEED, pairs["rows"])
            )
        report = {"block": block, "method": "imported"}
        write_shard(tmp_path, number, block, made, made[0].rows[0].item(), report, payload)
    for path in (HERE / payload / "shards").iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes(), path.name


def test_tarfile_and_numpy_alone_read_the_full_payload() -> None:
    with tarfile.open(HERE / "full" / "shards" / "pairs-000002.tar") as tar:
        read = {name.partition(".")[2]: io.BytesIO(tar.extractfile(name).read()) for name in tar.getnames()}
        assert all(member.mtime == 0 and member.isreg() for member in tar)
        for name in ("x0", "x1", "label"):
            np.testing.assert_array_equal(np.load(read[f"{name}.npy"]), expected(*RECORDS[-1][2:])[name])


def test_a_store_without_config_cannot_be_converted_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config.yaml.*no such file"):
        convert(HERE / "full", tmp_path / "out", "ids")
