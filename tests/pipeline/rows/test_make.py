"""Row sets made from data sets: the same however they are made, resumed after a kill, and never of other data."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import written

from flowpairs.pipeline import data
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import check_data
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.make import count_data, is_small, make_target, read_small, sample
from flowpairs.pipeline.data.rows.target import Target

COUNT, PARTS = 50, 7
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
LABELS = np.arange(COUNT) % 3
PART_BYTES = 8 * IMAGES[0].nbytes  # seven parts of at most eight rows


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_set, "PART_BYTES", PART_BYTES)


def made(config: DataConfig, directory: Path, *, by_ray: bool = False, final: bool = False) -> Target:
    return make_target(config, check_data(config), directory, by_ray=by_ray, final=final)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def listing(directory: Path) -> dict[str, tuple[int, int]]:
    """Name, inode and time of every file: whether any was touched."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in directory.rglob("*")}


@pytest.fixture
def npz(tmp_path: Path) -> DataConfig:
    return written.write("npz", tmp_path / "npz", IMAGES, LABELS)


@pytest.mark.parametrize("road", written.ROADS)
def test_a_set_of_several_parts_is_the_data_whatever_their_format(road: str, tmp_path: Path) -> None:
    config = written.write(road, tmp_path / "data", IMAGES, LABELS)
    spec = check_data(config)
    assert not is_small(spec)
    target = made(config, tmp_path / "rows")
    order = np.argsort(LABELS, kind="stable") if road == "folder" else np.arange(COUNT)
    expected = IMAGES[order].transpose(0, 3, 1, 2)
    assert target.rows.counts() == [8, 8, 8, 8, 8, 8, 2]
    np.testing.assert_array_equal(target.rows.take(np.arange(COUNT)), expected)
    np.testing.assert_array_equal(target.labels, LABELS[order])
    assert row_set.damages(tmp_path / "rows") == []
    names = {"manifest.json", "source.json", "label.npy", *map(row_set.part_name, range(PARTS))}
    assert files(tmp_path / "rows").keys() == names  # no sidecar is left
    memory = read_small(config, spec)
    assert (memory.fingerprint, memory.num_classes) == (target.fingerprint, target.num_classes)
    assert count_data(config, spec) == COUNT


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("road", ["npz", "tars", "parquet"])
def test_tasks_of_ray_write_the_same_bytes(road: str, tmp_path: Path) -> None:
    config = written.write(road, tmp_path / "data", IMAGES, LABELS)
    made(config, tmp_path / "here")
    made(config, tmp_path / "there", by_ray=True)
    assert files(tmp_path / "here") == files(tmp_path / "there")


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("by_ray", [False, True])
def test_rows_that_no_footer_says_are_counted(by_ray: bool, tmp_path: Path) -> None:
    config = written.write("parquet", tmp_path / "data", IMAGES, LABELS)
    made(config, tmp_path / "said")
    unsaid = replace(check_data(config), rows=None)
    assert count_data(config, unsaid) == COUNT
    make_target(config, unsaid, tmp_path / "counted", by_ray=by_ray, final=False)
    assert files(tmp_path / "counted") == files(tmp_path / "said")


KILLED = """
import os, signal, sys
from pathlib import Path
from flowpairs.pipeline import data
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.make import make_target

row_set.PART_BYTES, read, left = int(sys.argv[3]), data.read_piece, [4]

def read_piece(*args, **options):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(*args, **options)

data.read_piece = read_piece
config = DataConfig.model_validate_json(sys.argv[1])
make_target(config, data.check_data(config), Path(sys.argv[2]), by_ray=False, final=False)
"""


def killed_in_the_middle(config: DataConfig, directory: Path) -> None:
    """Three parts are finished."""
    command = [sys.executable, "-c", KILLED, config.model_dump_json(), str(directory), str(PART_BYTES)]
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL, timeout=60).returncode == -signal.SIGKILL


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pieces that are decoded from here on."""
    found: list[Any] = []
    read = data.read_piece

    def read_piece(config: DataConfig, spec: data.DataSpec, piece: data.Piece, *rest: Any, **options: Any) -> Any:
        found.append(piece)
        return read(config, spec, piece, *rest, **options)

    monkeypatch.setattr(data, "read_piece", read_piece)
    return found


def test_finished_parts_are_not_decoded_again(npz: DataConfig, tmp_path: Path, decoded: list[Any]) -> None:
    killed_in_the_middle(npz, tmp_path / "rows")
    assert row_set.lost_files(tmp_path / "rows") == ["manifest.json"]
    kept = {name: found for name, found in listing(tmp_path / "rows").items() if name.endswith(".npy")}
    assert sorted(kept) == [row_set.part_name(number) for number in range(3)]
    made(npz, tmp_path / "rows")
    assert len(decoded) == PARTS - 3
    assert listing(tmp_path / "rows").items() >= kept.items()
    made(npz, tmp_path / "whole")
    assert files(tmp_path / "rows") == files(tmp_path / "whole")
    decoded.clear()
    made(npz, tmp_path / "rows")
    assert decoded == []


@pytest.mark.parametrize("damage", ["part missing", "part cut short", "sidecar damaged"])
def test_a_part_that_lost_something_is_decoded_again(
    damage: str, npz: DataConfig, tmp_path: Path, decoded: list[Any]
) -> None:
    killed_in_the_middle(npz, tmp_path / "rows")
    part = tmp_path / "rows" / row_set.part_name(1)
    if damage == "part missing":
        part.unlink()
    else:
        os.truncate(part if damage == "part cut short" else part.with_suffix(".json"), 20)
    made(npz, tmp_path / "rows")
    assert len(decoded) == PARTS - 2
    made(npz, tmp_path / "whole")
    assert files(tmp_path / "rows") == files(tmp_path / "whole")


def test_parts_of_other_data_are_not_taken_for_finished(npz: DataConfig, tmp_path: Path, decoded: list[Any]) -> None:
    killed_in_the_middle(npz, tmp_path / "rows")
    other = written.write("npz", tmp_path / "other", 255 - IMAGES, LABELS)
    made(other, tmp_path / "rows")
    assert len(decoded) == PARTS
    made(other, tmp_path / "whole")
    assert files(tmp_path / "rows") == files(tmp_path / "whole")


def test_other_data_under_pairs_are_refused_and_the_rows_left_alone(npz: DataConfig, tmp_path: Path) -> None:
    rows = tmp_path / "store" / "rows"
    made(npz, rows)
    before = listing(rows)
    other = written.write("npz", tmp_path / "other", 255 - IMAGES, LABELS)
    with pytest.raises(
        InputError, match=r"^data.path='.*other.*': not the data of the pairs beside .*rows; give another"
    ):
        made(other, rows, final=True)
    assert listing(rows) == before
    made(other, rows)  # where no pair refers to them they give way
    np.testing.assert_array_equal(row_set.open_target(rows).rows.whole()[0], 255 - IMAGES[0].transpose(2, 0, 1))


def test_data_that_moved_are_the_same_data(npz: DataConfig, tmp_path: Path, decoded: list[Any]) -> None:
    """Read again once, to compare; then known by their new place."""
    rows = tmp_path / "store" / "rows"
    made(npz, rows)
    before = listing(rows)
    shutil.move(tmp_path / "npz", tmp_path / "moved")
    moved = npz.model_copy(update={"path": str(tmp_path / "moved" / "all.npz")})
    decoded.clear()
    for times in (PARTS, 0):
        made(moved, rows, final=True)
        assert len(decoded) == times
        decoded.clear()
    after = listing(rows)
    assert {name for name in after if after[name] != before.get(name)} == {"source.json"}


def unreadable(tmp_path: Path) -> tuple[DataConfig, data.DataSpec, list[int]]:
    """A folder with images that end early, in four of the parts, one of which has no other."""
    config = written.write("folder", tmp_path / "data", IMAGES, np.zeros(COUNT, np.int64))
    spec, bad = check_data(config), [3, 8, 9, 30, 31, *range(48, 50)]
    for row in bad:
        path = tmp_path / "data" / "class0" / f"{row:05d}.png"
        os.truncate(path, path.stat().st_size // 2)
    return config, spec, bad


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("by_ray", [False, True])
def test_all_unreadable_rows_are_refused_at_once(by_ray: bool, tmp_path: Path) -> None:
    config, spec, bad = unreadable(tmp_path)
    with pytest.raises(InputError, match=rf"{len(bad)} rows cannot be used: .*00003\.png.*data\.on_bad=skip"):
        make_target(config, spec, tmp_path / "rows", by_ray=by_ray, final=False)
    assert row_set.lost_files(tmp_path / "rows") == ["manifest.json"]


def test_unreadable_rows_may_be_left_out(tmp_path: Path) -> None:
    config, spec, bad = unreadable(tmp_path)
    config = config.model_copy(update={"on_bad": "skip"})
    target = make_target(config, spec, tmp_path / "rows", by_ray=False, final=False)
    kept = np.delete(np.arange(COUNT), bad)
    assert (len(target), target.left_out) == (COUNT - len(bad), len(bad))
    assert target.rows.counts() == [7, 6, 8, 6, 8, 8]
    np.testing.assert_array_equal(target.rows.take(np.arange(len(kept))), IMAGES[kept].transpose(0, 3, 1, 2))
    assert target.labels.tolist() == [0] * len(kept)
    assert row_set.damages(tmp_path / "rows") == []
    assert row_set.read_manifest(tmp_path / "rows").left_out == len(bad)


def test_nothing_but_unreadable_rows_is_refused(tmp_path: Path) -> None:
    config, spec, _ = unreadable(tmp_path)
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"data\.path=.*: no rows; give data with at least one"):
        make_target(config.model_copy(update={"on_bad": "skip"}), spec, tmp_path / "rows", by_ray=False, final=False)


@pytest.mark.parametrize("count", [1, 10, 40, 50, 500])
def test_a_sample_is_of_rows_of_the_set(count: int, npz: DataConfig) -> None:
    found = sample(npz, check_data(npz), count)
    whole = {image.tobytes() for image in IMAGES.transpose(0, 3, 1, 2)}
    drawn = [row.tobytes() for row in found.rows.whole()]
    assert set(drawn) <= whole
    assert len(set(drawn)) == len(drawn)
    assert min(count, COUNT) / 2 <= len(drawn) <= COUNT
