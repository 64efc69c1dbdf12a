"""One local copy a node of a file at a URL, in a directory that nobody else can write to."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows import local_copy, row_set
from flowpairs.pipeline.data.rows.make import save_target, target_of

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
USE = """
import os, sys
import fsspec
from fsspec.implementations.local import LocalFileSystem
from flowpairs.pipeline.base.paths import as_path
from flowpairs.pipeline.data.rows.local_copy import local_copy

class Counted(LocalFileSystem):
    protocol = "counted"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("counted://"))

    def _open(self, path, *args, **options):
        with open(path + ".opened", "a") as log:
            log.write("once more\\n")
        return super()._open(path, *args, **options)

fsspec.register_implementation("counted", Counted)
print(local_copy(as_path(sys.argv[1]), sys.argv[2]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This node's local temporary storage."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(local_copy, "_used", {})
    yield tmp_path / "tmp"
    local_copy._release(os.getpid())


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://local-copy"
    if fsspec.filesystem("memory").exists("/local-copy"):
        fsspec.filesystem("memory").rm("/local-copy", recursive=True)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A file, of which each process reads by a URL and which notes how often it was opened."""
    (tmp_path / "part.npy").write_bytes(CONTENT)
    return tmp_path / "part.npy"


def opened(served: Path) -> int:
    return len(Path(f"{served}.opened").read_text().splitlines())


def copies(temporary: Path) -> list[Path]:
    return [path for path in temporary.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_local_file_is_its_own_copy(tmp_path: Path, temporary: Path) -> None:
    assert local_copy.local_copy(tmp_path / "part.npy", SHA256) == tmp_path / "part.npy"
    assert list(temporary.iterdir()) == []


def test_a_process_copies_a_file_once(memory: str, temporary: Path) -> None:
    path = as_path(f"{memory}/part.npy")
    fsspec.filesystem("memory").pipe("/local-copy/part.npy", CONTENT)
    copy = local_copy.local_copy(path, SHA256)
    assert copy.read_bytes() == CONTENT
    fsspec.filesystem("memory").rm("/local-copy", recursive=True)
    assert local_copy.local_copy(path, SHA256) == copy
    assert copies(temporary) == [copy]
    assert copy.parent.stat().st_mode & 0o077 == 0


def test_another_content_is_refused_and_not_kept(memory: str, temporary: Path) -> None:
    fsspec.filesystem("memory").pipe("/local-copy/part.npy", CONTENT[:-1])
    with pytest.raises(
        InputError, match=r"part.npy: has another SHA-256 than its manifest says; run `flowpairs verify`"
    ):
        local_copy.local_copy(as_path(f"{memory}/part.npy"), SHA256)
    assert copies(temporary) == []
    fsspec.filesystem("memory").pipe("/local-copy/part.npy", CONTENT)
    assert local_copy.local_copy(as_path(f"{memory}/part.npy"), SHA256).read_bytes() == CONTENT


def test_a_directory_of_somebody_else_is_refused(memory: str, temporary: Path) -> None:
    fsspec.filesystem("memory").pipe("/local-copy/part.npy", CONTENT)
    directory = local_copy._directory()
    directory.chmod(0o777)
    with pytest.raises(InputError, match="not a directory of this user alone; remove it, or set TMPDIR"):
        local_copy.local_copy(as_path(f"{memory}/part.npy"), SHA256)
    directory.rmdir()
    (temporary / "elsewhere").mkdir()
    directory.symlink_to(temporary / "elsewhere")
    with pytest.raises(InputError, match="not a directory of this user alone"):
        local_copy.local_copy(as_path(f"{memory}/part.npy"), SHA256)


def test_processes_of_a_node_share_a_copy_and_the_last_removes_it(served: Path, temporary: Path) -> None:
    command = [sys.executable, "-c", USE, f"counted://{served}", SHA256]
    users = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(3)
    ]
    try:
        found = {user.stdout.readline().strip() for user in users if user.stdout is not None}
        assert [str(path) for path in copies(temporary)] == list(found)
        assert opened(served) == 1
        for user in users[:2]:
            user.communicate(timeout=60)
            assert len(copies(temporary)) == 1
        one_more = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        users.append(one_more)
        assert one_more.stdout is not None
        assert {one_more.stdout.readline().strip()} == found
        assert opened(served) == 1
        for user in users[2:]:
            assert len(copies(temporary)) == 1
            user.communicate(timeout=60)
        assert copies(temporary) == []
    finally:
        for user in users:
            user.kill()
            user.wait()


def test_a_killed_process_leaves_a_copy_that_the_next_one_takes(served: Path, temporary: Path) -> None:
    command = [sys.executable, "-c", USE, f"counted://{served}", SHA256]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        killed.kill()
    assert len(copies(temporary)) == 1
    done = subprocess.run(command, input="", capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout
    assert opened(served) == 1
    assert copies(temporary) == []


def test_rows_at_a_url_are_those_of_a_local_set(memory: str, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(10, 2, 3)).astype(np.float32)
    monkeypatch.setattr(row_set, "PART_BYTES", 4 * x[0].nbytes)
    target = target_of(DataConfig(path="x.npz"), DataSpec(10, (2, 3), 0, "vector", 0), x, {"label": np.arange(10)})
    saved = save_target(target, as_path(f"{memory}/rows"))
    assert copies(temporary) == []
    np.testing.assert_array_equal(saved.rows.read(np.arange(20)), target.rows.read(np.arange(20)))
    assert len(copies(temporary)) == 3
    assert row_set.damages(as_path(f"{memory}/rows")) == []
