"""One local copy a node of a file at a URL, named by its hash, which processes of the node share.

The copy lies in a directory of this user's in local temporary storage. A lock lets one process make it, hashed on the
way; each process that uses it holds a shared lock on it, and the last to end removes it.
"""

import atexit
import fcntl
import hashlib
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from flowpairs.pipeline.base.atomic import temporary_name
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.base.printing import print_line

COPIED_BYTES = 2**22  # at a time

_used: dict[str, IO[bytes]] = {}  # files whose shared lock this process holds


def local_copy(path: AnyPath, sha256: str) -> Path:
    """Return the path itself where it is local, else that of this node's copy, which is made if it is not there.

    Args:
        path: path or URL of a file.
        sha256: hash that the file must have.

    Raises:
        InputError: the file has another hash.
        OSError: it cannot be read, or there is no room for a copy.
    """
    if isinstance(path, Path):
        return path
    copy = _directory() / sha256
    if sha256 not in _used:
        _used[sha256] = _shared(path, copy, sha256)
        if len(_used) == 1:
            atexit.register(_release, os.getpid())
    return copy


def _directory() -> Path:
    """Make the directory of this user's copies, which nobody else can write to."""
    directory = Path(tempfile.gettempdir()) / f"flowpairs-rows-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(f"{directory}: not a directory of this user alone; remove it, or set TMPDIR")
    return directory


def _shared(path: AnyPath, copy: Path, sha256: str) -> IO[bytes]:
    """Open this node's copy with a shared lock, once it is there."""
    with (copy.with_suffix(".lock")).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.is_file():
            _fetch(path, copy, sha256)
        file = copy.open("rb")
        fcntl.flock(file, fcntl.LOCK_SH)
        return file


def _fetch(path: AnyPath, copy: Path, sha256: str) -> None:
    """Copy a file to this node, and check its hash."""
    print_line(f"{path}: copying {path.stat().st_size:,} bytes to {copy.parent}", sys.stderr)
    temporary, digest = temporary_name(copy), hashlib.sha256()
    try:
        with path.open("rb") as source, temporary.open("wb") as into:
            while piece := source.read(COPIED_BYTES):
                digest.update(piece)
                into.write(piece)
        if digest.hexdigest() != sha256:
            raise InputError(f"{path}: has another SHA-256 than its manifest says; run `flowpairs verify`")
        temporary.replace(copy)
    finally:
        temporary.unlink(missing_ok=True)


def _release(process: int) -> None:
    """Remove the copies that no other process uses."""
    if os.getpid() != process:
        return
    for sha256, file in _used.items():
        with suppress(OSError):
            copy = _directory() / sha256
            with copy.with_suffix(".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                copy.unlink(missing_ok=True)
        file.close()
    _used.clear()
