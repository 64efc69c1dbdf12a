"""Rows by id, over parts in memory and on disk, against plain indexing; and how much memory reading them holds."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.rows import Rows

SHAPE = (2, 3, 4)


def data(dtype: str, count: int = 11) -> np.ndarray:
    x = np.random.default_rng(0).integers(0, 256, (count, *SHAPE))
    return x.astype(dtype) if dtype == "uint8" else (x / 100 - 1).astype(dtype)


def rows_of(x: np.ndarray, cuts: list[int], directory: Path | None = None) -> Rows:
    """Rows in parts that end at `cuts` and at the end of the array, as files where there is a directory."""
    parts = [np.ascontiguousarray(part) for part in np.split(x, cuts)]
    counts = [len(part) for part in parts]
    if directory is None:
        return Rows(parts, counts, x.shape[1:], str(x.dtype))
    files = [row_set.write_part(directory / row_set.part_name(number), part) for number, part in enumerate(parts)]
    hashes = [file.sha256 for file in files]
    return Rows([directory / file.name for file in files], counts, x.shape[1:], str(x.dtype), hashes)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("cuts", [[], [4, 8], [1, 2, 10]], ids=str)
@pytest.mark.parametrize("on_disk", [False, True])
def test_ids_are_rows_and_their_mirror_images(dtype: str, cuts: list[int], on_disk: bool, tmp_path: Path) -> None:
    x = data(dtype)
    both = np.concatenate([x, x[..., ::-1]])
    rows = rows_of(x, cuts, tmp_path if on_disk else None)
    assert (len(rows), rows.dim, rows.counts()) == (11, 24, np.diff([0, *cuts, 11]).tolist())
    for ids in (np.arange(22), np.array([21, 0, 7, 7, 10, 11, 3]), np.array([], np.int64)):
        taken = rows.take(ids)
        assert (taken.dtype, taken.flags.writeable) == (x.dtype, True)
        np.testing.assert_array_equal(taken, both[ids])
        scaled = both[ids] / np.float32(127.5) - np.float32(1) if dtype == "uint8" else both[ids].astype(np.float32)
        read = rows.read(ids)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, scaled)
    np.testing.assert_array_equal(rows.whole(), x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows)).take(np.arange(22)), both)


def test_uint8_fills_the_range_of_model_space() -> None:
    x = np.array([[0], [255], [128]], np.uint8)
    assert Rows.of(x).read(np.arange(3)).tolist() == [[-1.0], [1.0], [np.float32(128) / np.float32(127.5) - 1]]


def test_pickles_of_rows_on_disk_hold_no_rows(tmp_path: Path) -> None:
    rows = rows_of(data("float32", 5000), [1000, 4000], tmp_path)
    rows.take(np.arange(9))
    assert len(pickle.dumps(rows)) < 2_000


@pytest.mark.parametrize("cuts", [[], [4, 8]])
def test_a_part_of_another_form_is_refused(cuts: list[int], tmp_path: Path) -> None:
    """Fewer rows, another dtype, a file cut short."""
    x = data("float32")
    name = row_set.part_name(len(cuts))
    for other in (x[:2], x[8:].astype(np.float16) if cuts else x.astype(np.float16)):
        rows_of(x, cuts, tmp_path)
        rows = rows_of(x, cuts, tmp_path)
        row_set.write_part(tmp_path / name, other)
        with pytest.raises(ValueError, match=rf"{name}: is \[\d+, 2, 3, 4\] of float\d+, not \[\d+, 2, 3, 4\]"):
            rows.take(np.array([10]))
    rows = rows_of(x, cuts, tmp_path)
    os.truncate(tmp_path / name, 200)
    with pytest.raises(ValueError, match="where its header promises"):
        rows.take(np.array([10]))


READ_AT_RANDOM = """
import sys
from pathlib import Path
import numpy as np
from flowpairs.pipeline.data.rows.rows import Rows

def held():
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) // 1024 for name in ("RssAnon", "RssFile")}

count, parts = int(sys.argv[1]), sys.argv[2:]
rows = Rows([Path(part) for part in parts], [count] * len(parts), (4096,), "uint8")
random, start, most = np.random.default_rng(0), held(), {"RssAnon": 0, "RssFile": 0}
order = random.permutation(count * len(parts))
for first in range(0, len(order), 256):
    rows.take(order[first : first + 256])
    most = {name: max(most[name], now - start[name]) for name, now in held().items()}
print(most["RssAnon"], most["RssFile"])
"""


@pytest.mark.parametrize("parts", [1, 4])
def test_reading_a_large_set_at_random_holds_little_of_it(parts: int, tmp_path: Path) -> None:
    """Of 512 MiB, all of which are read, less than half is ever the process's at once, and nearly none as a copy."""
    count, paths = 2**17 // parts, []
    for number in range(parts):
        path = tmp_path / row_set.part_name(number)
        with path.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, 4096)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + count * 4096)
        paths.append(str(path))
    command = [sys.executable, "-c", READ_AT_RANDOM, str(count), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    copied, mapped = map(int, done.stdout.split())
    assert copied < 64
    assert mapped < 256
