"""Disks that are full or read-only, and stores that lost something: found, named, and mended or refused."""

import gc
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from flowpairs.pipeline.base.atomic import atomic_directory, write_array, write_atomically
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.verify import verify
from flowpairs.training.pairs.reading.order import Stretch
from flowpairs.training.pairs.reading.shards import ShardReader


def settings(directory: Path, payload: str = "full") -> CoupleConfig:
    """1,000 pairs in ten shards of about 60 kB, beside 460 kB of rows."""
    tree = {
        "data": {"path": "digits", "label": "label"},
        "coupling": {"method": "independent", "n": 500},
        "output": {"dir": str(directory), "pairs": 1000, "pairs_per_shard": 100, "payload": payload},
        "cluster": {"actors": 0},
    }
    return validate(CoupleConfig, tree)


def tars(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "shards").glob("*.tar")}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faults") / "reference"
    couple(settings(directory))
    return directory


@pytest.fixture
def store(reference: Path, tmp_path: Path) -> Path:
    """A whole store to be damaged."""
    return Path(shutil.copytree(reference, tmp_path / "store"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", path]).returncode:
        pytest.skip("only root may mount a small file system")
    yield path
    gc.collect()  # rows that a failed job has mapped are in the frames of its error
    subprocess.run(["umount", path], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


def test_a_job_on_a_full_disk_says_so_and_goes_on_when_there_is_room(reference: Path, small_disk: Path) -> None:
    directory = small_disk / "store"
    with pytest.raises(
        JobError, match=r"rows/part-00000.npy: cannot be written \(No space left on device\); .*make room"
    ):
        couple(settings(directory))
    remount(small_disk, "size=700k")
    with pytest.raises(
        JobError, match=r"pairs-00000\d.tar: cannot be written \(No space left on device\); .*make room"
    ):
        couple(settings(directory))
    kept = tars(directory)
    assert kept.items() < tars(reference).items()
    assert not list((directory / "shards").glob(".*"))
    remount(small_disk, "size=10m")
    couple(settings(directory))
    assert tars(directory) == tars(reference)


def test_a_directory_that_finds_no_room_is_not_there(small_disk: Path) -> None:
    def fill(files: int) -> None:
        with atomic_directory(small_disk / "images") as directory:
            for number in range(files):
                (directory / f"{number}").write_bytes(bytes(100_000))

    with pytest.raises(JobError, match=r"images: cannot be written \(No space left on device\)"):
        fill(10)
    assert list(small_disk.iterdir()) == []
    (small_disk / "images").mkdir()  # an empty directory is as good as none
    fill(1)
    assert [path.name for path in small_disk.rglob("*")] == ["images", "0"]


@pytest.mark.parametrize("write", [write_atomically, write_array])
def test_a_file_that_finds_no_room_leaves_the_old_one(write: Callable[[Path, object], None], small_disk: Path) -> None:
    small, large = (np.zeros(n, np.uint8) for n in (1_000, 1_000_000))
    path = small_disk / "file"
    write(path, small.tobytes() if write is write_atomically else small)
    before = path.read_bytes()
    with pytest.raises(JobError, match=r"file: cannot be written"):
        write(path, large.tobytes() if write is write_atomically else large)
    assert path.read_bytes() == before
    assert [entry.name for entry in small_disk.iterdir()] == ["file"]


def test_a_read_only_directory_is_refused_before_anything_is_computed(reference: Path, small_disk: Path) -> None:
    remount(small_disk, "size=10m")
    shutil.copytree(reference, small_disk / "whole")
    shutil.copytree(reference, small_disk / "unfinished")
    (small_disk / "unfinished" / "index.json").unlink()
    shutil.copytree(reference, small_disk / "short")
    (small_disk / "short" / "shards" / "pairs-000002.tar").unlink()
    remount(small_disk, "ro")
    for name in ("new", "unfinished", "short"):
        with pytest.raises(InputError, match=rf"output.dir='{small_disk / name}': {small_disk}.* cannot be written"):
            couple(settings(small_disk / name))
    assert couple(settings(small_disk / "whole")).pairs == 1000
    assert verify(small_disk / "whole").faults == []


def flip_a_bit(tar: Path) -> None:
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "tar missing": lambda tar: tar.unlink(),
    "tar empty": lambda tar: os.truncate(tar, 0),
    "tar cut short": lambda tar: os.truncate(tar, 1024),
    "tar longer": lambda tar: os.truncate(tar, tar.stat().st_size + 512),
    "sidecar missing": lambda tar: tar.with_suffix(".json").unlink(),
}


@pytest.mark.parametrize("finished", [True, False])
def test_what_shards_lost_is_named_and_computed_again(reference: Path, store: Path, finished: bool) -> None:
    damaged = {f"pairs-{2 * i:06d}.tar": damage for i, damage in enumerate(DAMAGES.values())}
    for name, damage in damaged.items():
        damage(store / "shards" / name)
    assert [fault.partition(":")[0] for fault in verify(store).faults[:-1]] == list(damaged)
    if not finished:
        (store / "index.json").unlink()
    couple(settings(store))
    assert verify(store).faults == []
    assert tars(store) == tars(reference)


def test_a_flipped_bit_is_never_trained_on_and_mended_as_the_sentence_says(reference: Path, store: Path) -> None:
    """A shard of the right size looks finished to a job that resumes; its hash gives it away to who reads it."""
    tar = store / "shards" / "pairs-000003.tar"
    flip_a_bit(tar)
    couple(settings(store))
    fault = verify(store).faults[0]
    assert fault.startswith("pairs-000003.tar: has another SHA-256")
    assert "remove it and its sidecar" in fault
    with pytest.raises(InputError, match=r"pairs-000003.tar': has another SHA-256 .* remove it with its sidecar"):
        next(ShardReader(store, format.read_index(store), ("x0",)).read([Stretch(3, 0, 100)]))
    tar.unlink()
    tar.with_suffix(".json").unlink()
    couple(settings(store))
    assert tars(store) == tars(reference)
    assert verify(store).faults == []


def test_a_damaged_sidecar_is_named(store: Path) -> None:
    sidecar = store / "shards" / "pairs-000003.json"
    os.truncate(sidecar, 100)
    assert verify(store).faults[0].startswith("pairs-000003.tar: its sidecar says otherwise")
    (store / "index.json").unlink()
    with pytest.raises(InputError, match=r"pairs-000003.json: not a shard's sidecar \(invalid JSON"):
        couple(settings(store))


def test_half_written_files_are_swept_out(reference: Path, store: Path) -> None:
    halves = [store / ".index.json.7.tmp", store / "shards" / ".pairs-000003.tar.7.tmp"]
    for path in halves:
        path.write_bytes(b"half")
    (store / "index.json").unlink()
    couple(settings(store))
    assert not any(path.exists() for path in halves)
    assert tars(store) == tars(reference)
    assert verify(store).faults == []


def test_a_lost_copy_of_the_data_is_made_again(tmp_path: Path) -> None:
    couple(settings(tmp_path / "s", "ids"))
    rows = tmp_path / "s" / "rows"
    whole = {path.name: path.read_bytes() for path in rows.iterdir()}
    for name in ("part-00000.npy", "label.npy", "manifest.json"):
        (rows / name).unlink()
        assert f"rows/{name}: cannot be read" in verify(tmp_path / "s").faults[0]
        couple(settings(tmp_path / "s", "ids"))
        assert {path.name: path.read_bytes() for path in rows.iterdir()} == whole
        assert verify(tmp_path / "s").faults == []


def test_a_lost_table_of_blocks_is_written_anew(store: Path) -> None:
    from flowpairs.pipeline.store.block_reports import read_blocks

    (store / "blocks.parquet").unlink()
    with pytest.raises(InputError, match=r"blocks.parquet: cannot be read .* remove it and index.json"):
        read_blocks(store)
    (store / "index.json").unlink()
    couple(settings(store))
    assert [row["block"] for row in read_blocks(store)] == [0, 1]
