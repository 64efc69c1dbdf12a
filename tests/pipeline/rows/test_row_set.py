"""Row sets: what is written is what is read, its fingerprint is that of the arrays, and every damage is named."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.make import save_target, target_of
from flowpairs.pipeline.data.rows.target import Target

SPEC = DataSpec(10, (2, 3), 4, "vector", 0, dtype="float32", class_names=("a", "b", "c", "d"))
X = np.random.default_rng(0).normal(size=(10, 2, 3)).astype(np.float32)
COLUMNS = {
    "label": np.arange(10) % 4,
    "weight": np.arange(10) / 2.0,
    "time": np.arange(10) % 3 + 0.5,
    "growth": np.arange(10) + 0.5,
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows a part."""
    monkeypatch.setattr(row_set, "PART_BYTES", 4 * X[0].nbytes)


def in_memory(x: np.ndarray = X, **columns: np.ndarray) -> Target:
    return target_of(DataConfig(path="x.npz"), SPEC, x, columns or COLUMNS)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_target(in_memory(), tmp_path / "rows")
    return tmp_path / "rows"


def test_numpy_alone_reads_it(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_bytes())
    assert [part["rows"] for part in manifest["parts"]] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([np.load(directory / p["name"]) for p in manifest["parts"]]), X)
    for name, values in COLUMNS.items():
        np.testing.assert_array_equal(np.load(directory / f"{name}.npy"), values)
    for part in manifest["parts"] + manifest["columns"]:
        content = (directory / part["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part["bytes"], part["sha256"])
    assert {key: manifest[key] for key in ("rows", "shape", "dtype", "scale", "kind", "num_classes", "left_out")} == {
        "rows": 10, "shape": [2, 3], "dtype": "float32", "scale": "x",
        "kind": "vector", "num_classes": 4, "left_out": 0,
    }  # fmt: skip
    assert manifest["class_names"] == list(SPEC.class_names)


def test_it_opens_as_what_was_saved(directory: Path) -> None:
    ours, theirs = in_memory(), row_set.open_target(directory)
    ids = np.arange(20)
    np.testing.assert_array_equal(ours.rows.read(ids), theirs.rows.read(ids))
    for name, values in theirs.columns().items():
        assert (values.dtype, values.tolist()) == (row_set.COLUMNS[name], COLUMNS[name].tolist())
    same = "num_classes", "fingerprint", "columns_fingerprint", "class_names", "kind", "left_out"
    assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_the_fingerprint_in_memory_is_that_on_disk(dtype: str, tmp_path: Path) -> None:
    x = (100 * X).astype(np.uint8) if dtype == "uint8" else X.astype(dtype)
    target = in_memory(x)
    assert save_target(target, tmp_path).fingerprint == target.fingerprint == row_set.fingerprint_of(x, COLUMNS)
    assert row_set.read_manifest(tmp_path).fingerprint == target.fingerprint


def test_the_fingerprint_tells_data_and_labels_apart() -> None:
    """But not weights and times, which have their own."""
    one = X.copy()
    one[9, 1, 2] += 1e-6
    others = [in_memory(one), in_memory(X[:9], label=COLUMNS["label"][:9]), in_memory(X.reshape(10, 3, 2))]
    others += [in_memory(label=COLUMNS["label"][::-1].copy()), in_memory(x=X, time=COLUMNS["time"])]
    found = {target.fingerprint for target in (in_memory(), *others)}
    assert len(found) == 6
    heavy = in_memory(**COLUMNS | {"weight": COLUMNS["weight"] + 1})
    assert heavy.fingerprint == in_memory().fingerprint
    assert heavy.columns_fingerprint != in_memory().columns_fingerprint


def test_saving_again_leaves_a_whole_set_alone_and_mends_another(directory: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    save_target(in_memory(), directory)
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    (directory / "part-00001.npy").unlink()
    save_target(in_memory(), directory)
    assert row_set.damages(directory) == []
    save_target(in_memory(X[:3], label=np.zeros(3, np.int64)), directory)
    assert sorted(path.name for path in directory.iterdir()) == ["label.npy", "manifest.json", "part-00000.npy"]


@pytest.mark.parametrize("name", ["part-00000.npy", "part-00002.npy", "label.npy", "weight.npy", "time.npy"])
def test_what_is_missing_short_or_flipped_is_named(name: str, directory: Path) -> None:
    path = directory / name
    whole = path.read_bytes()
    assert (row_set.lost_files(directory), row_set.damages(directory)) == ([], [])
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert row_set.lost_files(directory) == []  # of the right size
    assert row_set.damages(directory) == [
        f"{path}: has another SHA-256 than its manifest says; remove the directory and couple again"
    ]
    os.truncate(path, len(whole) - 1)
    assert row_set.lost_files(directory) == [name]
    assert "another SHA-256" in row_set.damages(directory)[0]
    path.unlink()
    assert row_set.lost_files(directory) == [name]
    assert f"{name}: cannot be read" in row_set.damages(directory)[0]


@pytest.mark.parametrize("name", row_set.COLUMNS)
def test_a_column_is_never_used_damaged(name: str, directory: Path) -> None:
    path = directory / f"{name}.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(InputError, match=rf"{name}.npy: not the column that the manifest lists; remove the directory"):
        row_set.open_target(directory)
    path.write_bytes(whole[:-8])
    with pytest.raises(InputError, match=rf"{name}.npy: cannot be read \("):
        row_set.open_target(directory)


def test_a_copy_is_the_set(directory: Path, tmp_path: Path) -> None:
    row_set.copy_set(directory, tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == {
        path.name: path.read_bytes() for path in directory.iterdir()
    }
    row_set.clear(tmp_path / "copy")
    assert row_set.damages(directory) == []
    with pytest.raises(InputError, match="cannot be read as the manifest of rows"):
        row_set.copy_set(tmp_path / "copy", tmp_path / "other")


def changed(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree.update(values)


def first_part(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree["parts"][0].update(values)


FORGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another version": (changed(format_version=3), "format_version=3, this program reads 2"),
    "no version": (lambda tree: tree.pop("format_version"), "format_version=None"),
    "a path out of the directory": (first_part(name="../part-00000.npy"), r"parts.0.name: String should match"),
    "an absolute path": (first_part(name="/etc/passwd"), r"parts.0.name: String should match"),
    "a line break": (first_part(name="part-00000.npy\n"), r"parts.0.name: String should match"),
    "no hash": (first_part(sha256="0" * 63), r"parts.0.sha256"),
    "rows of text": (changed(rows="10"), r"rows: Input should be a valid integer"),
    "other counts": (changed(rows=2**60), "promises 1152921504606846976 rows, and its files hold others"),
    "a huge part": (first_part(rows=2**60), "promises 10 rows, and its files hold others"),
    "no rows": (changed(rows=0, parts=[], columns=[]), "rows: Input should be greater than or equal to 1"),
    "a column of others": (lambda tree: tree["columns"][0].update(rows=9), "promises 10 rows, and its files hold"),
    "an unknown dtype": (changed(dtype="object"), "dtype: Input should be"),
    "a size of 0": (changed(shape=[2, 0]), r"shape.1: Input should be greater than or equal to 1"),
    "a list": (lambda tree: None, "cannot be read as the manifest of rows"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_hostile_manifest_is_refused_in_one_sentence(name: str, directory: Path) -> None:
    change, says = FORGED[name]
    path = directory / "manifest.json"
    tree = json.loads(path.read_bytes())
    change(tree)
    path.write_text(json.dumps([tree] if name == "a list" else tree))
    with pytest.raises(InputError, match=says) as caught:
        row_set.open_target(directory)
    assert "\n" not in str(caught.value)
    assert row_set.lost_files(directory) == ["manifest.json"]
    assert row_set.damages(directory) == [str(caught.value)]


def test_counts_that_agree_with_each_other_and_not_with_the_files_are_found(directory: Path) -> None:
    """Nothing of the size that they claim is reserved."""
    path = directory / "manifest.json"
    tree = json.loads(path.read_bytes())
    tree |= {"rows": 2**60, "parts": [tree["parts"][0] | {"rows": 2**60}], "columns": []}
    path.write_text(json.dumps(tree))
    target = row_set.open_target(directory)
    with pytest.raises(ValueError, match=r"is \[4, 2, 3\] of float32, not \[1152921504606846976, 2, 3\]"):
        target.rows.take(np.array([0]))
    assert "its fingerprint is not that of its files" in row_set.damages(directory)[0]
