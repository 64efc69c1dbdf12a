"""Shards: the same bytes for the same pairs, readable without the project, and never half-written under their name."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.tar import plain_members
from flowpairs.pipeline.store import block_reports, format
from flowpairs.pipeline.store.records import Record
from flowpairs.pipeline.store.verify import mean_deviation, verify
from flowpairs.pipeline.store.writer import write_shard

SHAPE = (1, 4, 4)


def record(first_row: int, count: int) -> Record:
    rng = np.random.default_rng(first_row)
    return Record(
        first_row,
        rng.standard_normal((count, *SHAPE)).astype(np.float32),
        rng.standard_normal((count, *SHAPE)).astype(np.float32),
        rng.integers(0, 100, count),
        rng.integers(0, 10, count),
        seed=0,
        rows=np.arange(first_row, first_row + count),
    )


def make_store(directory: Path, shards: int = 3) -> format.Index:
    (directory / "shards").mkdir(parents=True)
    report = {"source_error": 1e-4, "target_error": 2e-4}
    sidecars = [write_shard(directory, i, i, [record(0, 5), record(5, 2)], 7 * i, report) for i in range(shards)]
    index = format.Index(
        "hash", "print", 7 * shards, SHAPE, 10, "full", "sinkhorn", "", tuple(s.shard for s in sidecars)
    )
    format.write_index(directory, index)
    return index


def test_the_same_pairs_are_the_same_bytes(tmp_path: Path) -> None:
    assert make_store(tmp_path / "a") == make_store(tmp_path / "b")
    for shard in format.read_index(tmp_path / "a").shards:
        here, there = (tmp_path / name / "shards" / shard.name for name in "ab")
        assert here.read_bytes() == there.read_bytes()


def test_records_read_back_with_tarfile_and_numpy(tmp_path: Path) -> None:
    make_store(tmp_path / "s", 1)
    with tarfile.open(tmp_path / "s" / "shards" / "pairs-000000.tar") as tar:
        names = tar.getnames()
        assert names[:4] == [f"b000000-r000000000.{f}" for f in ("label.npy", "meta.json", "x0.npy", "x1.npy")]
        member = tar.extractfile("b000000-r000000005.x0.npy")
        assert member is not None
        np.testing.assert_array_equal(np.load(io.BytesIO(member.read())), record(5, 2).x0)


def test_the_index_reads_back(tmp_path: Path) -> None:
    index = make_store(tmp_path / "s")
    assert format.read_index(tmp_path / "s") == index


@given(
    st.lists(st.tuples(st.text("ab/.é", min_size=1, max_size=120), st.integers(0, 1500)), max_size=5),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]),
    st.integers(0, 4),
)
def test_a_tar_is_walked_as_tarfile_walks_it(
    files: list[tuple[str, int]], form: int, kind: bytes, special: int
) -> None:
    """Or left to tarfile, as what is no plain file with a short name must be."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, (name, size) in enumerate(files):
            info = tarfile.TarInfo(f"{number}{name}")
            info.size, info.type = size, kind if number == special else tarfile.REGTYPE
            try:
                tar.addfile(info, io.BytesIO(bytes(size)))
            except ValueError:  # a name too long for the format
                return
    found = plain_members(buffer)
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        truth = [(member.name, member.isreg(), member.offset_data, member.size) for member in tar]
    if found is not None:
        assert found == truth


def test_the_quick_walk_is_taken_for_our_own_shards(tmp_path: Path) -> None:
    make_store(tmp_path / "s", 1)
    with (tmp_path / "s" / "shards" / "pairs-000000.tar").open("rb") as file:
        found = plain_members(file)
    assert found is not None
    assert len(found) == 8


def test_an_exception_leaves_no_shard(tmp_path: Path) -> None:
    def records() -> Iterator[Record]:
        yield record(0, 5)
        raise RuntimeError("mid-write")

    (tmp_path / "shards").mkdir()
    with pytest.raises(RuntimeError, match="mid-write"):
        write_shard(tmp_path, 0, 0, records(), 0, {})
    assert list((tmp_path / "shards").iterdir()) == []


def test_sigkill_leaves_no_shard_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    program = (
        "import sys, time; from pathlib import Path; sys.path[:0] = ['tests', 'tests/pipeline/store']\n"
        "from test_store import record; from flowpairs.pipeline.store.writer import ShardWriter\n"
        f"writer = ShardWriter(Path({str(tmp_path)!r}), 0, 0).__enter__()\n"
        "writer.write(record(0, 5)); writer.file.flush(); print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert [path.suffix for path in (tmp_path / "shards").iterdir()] == [".tmp"]


def test_a_whole_store_verifies(tmp_path: Path) -> None:
    make_store(tmp_path / "s")
    verdict = verify(tmp_path / "s")
    assert verdict.faults == []
    assert (verdict.shards, verdict.records, verdict.pairs) == (3, 6, 21)
    counts = np.unique(np.tile(np.concatenate([record(0, 5).data_ids, record(5, 2).data_ids]), 3), return_counts=True)[
        1
    ]
    assert verdict.data_used == len(counts)
    assert verdict.draw_error == pytest.approx(np.abs(counts / 21 - 1 / len(counts)).sum())


@pytest.mark.parametrize(("draws", "p"), [(1, 0.5), (40, 1e-6), (40, 0.03), (1000, 0.25), (7, 1.0), (7, 0.0)])
def test_the_deviation_of_independent_draws_is_that_of_the_binomial(draws: int, p: float) -> None:
    k = np.arange(draws + 1)
    expected = np.abs(k / draws - p) @ scipy.stats.binom.pmf(k, draws, p)
    assert mean_deviation(draws, np.array([p])).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda tar: tar.unlink(), "pairs-000001.tar: is missing"),
        (lambda tar: tar.with_suffix(".json").unlink(), "pairs-000001.tar: its sidecar is missing"),
        (lambda tar: os.truncate(tar, 2048), "pairs-000001.tar: has 2048 bytes, the index says 10240"),
        (
            lambda tar: tar.write_bytes(tar.read_bytes()[:700] + b"x" + tar.read_bytes()[701:]),
            "pairs-000001.tar: has another SHA-256 than the index says",
        ),
        (lambda tar: (tar.parent / "stray.bin").write_bytes(b"x"), "stray.bin: not listed in the index"),
        (lambda tar: tar.parent.rename(tar.parent.with_name("moved")), "is missing"),
    ],
)
def test_every_damage_is_found_and_named(tmp_path: Path, damage: object, says: str) -> None:
    make_store(tmp_path / "s")
    tar = tmp_path / "s" / "shards" / "pairs-000001.tar"
    tar.chmod(0o644)
    damage(tar)  # type: ignore[operator]
    faults = verify(tmp_path / "s").faults
    assert says in faults[0]


def test_a_store_that_lies_about_its_content_is_found(tmp_path: Path) -> None:
    """A tar whose hash is right but whose records break the format."""
    directory = tmp_path / "s"
    (directory / "shards").mkdir(parents=True)
    bad = record(0, 5)
    bad.x1[2, 0, 0, 0] = np.nan
    sidecar = write_shard(directory, 0, 0, [bad, record(5, 5), bad], 0, {})
    index = format.Index("h", "p", 16, SHAPE, 10, "full", "exact", "", (sidecar.shard,))
    format.write_index(directory, index)
    faults = " ".join(verify(directory).faults)
    assert "x1 has NaN or Inf" in faults
    assert "record b000000-r000000000 stands twice" in faults
    assert "promises 16 pairs, the shards hold 5" in faults


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"format_version": 99}', "format_version=99, but this program reads 2"),
        (
            '{"format_version": 1, "shape": [1]}',
            "format_version=1, .*; make the store again or install",
        ),
        ('{"format_version": 2, "shape": [1]}', "not an index"),
    ],
)
def test_a_broken_index_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(InputError, match=says):
        format.read_index(tmp_path)


def test_what_is_no_finished_store_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no coupling job ran here; give the output\.dir of one"):
        format.read_index(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InputError, match="its job has not finished"):
        format.read_index(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match="a training run; give the pair store that it was trained on"):
        format.read_index(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        format.read_index(tmp_path / "nowhere")


def test_a_report_whose_columns_have_no_text_for_a_name_is_refused(tmp_path: Path) -> None:
    block_reports.write_blocks(tmp_path, [{"block": 0, "eps": 0.5}])
    path = tmp_path / "blocks.parquet"
    path.write_bytes(path.read_bytes().replace(b"eps", b"\xe2ps"))
    with pytest.raises(InputError, match=r"blocks\.parquet: cannot be read as parquet"):
        block_reports.read_blocks(tmp_path)
