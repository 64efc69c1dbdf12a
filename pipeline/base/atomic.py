"""Files that are complete under their final name or not there at all, hashed on the way where that is asked for."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.paths import AnyPath, Remote


@contextmanager
def atomic_open(path: AnyPath) -> Iterator[BinaryIO]:
    """Open a file that gets its final name when the `with` block ends; after an exception no file is left.

    A local file is written under a temporary name in the same directory, synced and renamed, and the directory is
    synced. A file at a URL is written to local temporary storage and uploaded when it is complete.

    Raises:
        JobError: a full or read-only disk, or a URL that takes no files.
    """
    temporary = temporary_name(path) if isinstance(path, Path) else _scratch()
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if isinstance(path, Path):
                os.fsync(file.fileno())
        if isinstance(path, Remote):
            path.put(temporary)
            temporary.unlink()
        else:
            _commit(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Make a directory that gets its final name when the `with` block ends; after an exception no directory is left.

    Args:
        path: path that does not exist yet or is an empty directory.

    Raises:
        JobError: a full or read-only disk.
    """
    temporary = temporary_name(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _commit(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def write_atomically(path: AnyPath, data: bytes) -> None:
    """Write bytes to a file, by `atomic_open`."""
    with atomic_open(path) as file:
        file.write(data)


def copy_file(source: AnyPath, destination: AnyPath) -> None:
    """Copy a file that is never changed in place: by a hard link where both are on one disk, else its bytes."""
    if isinstance(source, Path) and isinstance(destination, Path):
        temporary = temporary_name(destination)
        with suppress(OSError):  # another disk, or one without hard links
            temporary.hardlink_to(source)
            _commit(temporary, destination)
            return
    with source.open("rb") as file, atomic_open(destination) as into:
        shutil.copyfileobj(file, into, 2**22)


def write_array(path: AnyPath, values: np.ndarray) -> None:
    """Write a .npy file, by `atomic_open`."""
    with atomic_open(path) as file:
        np.save(file, values, allow_pickle=False)


def refuse_unwritable(directory: AnyPath, key: str) -> None:
    """Refuse a directory that cannot be made or written, before anything is computed for it.

    At a URL the first file will show it.

    Args:
        directory: output directory, which need not exist.
        key: key and value of the config that name it, for the message.
    """
    if not isinstance(directory, Path):
        return
    try:
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except OSError as error:  # a name that is too long, a loop of links
        raise InputError(f"{key}: {error.strerror or error}; give another directory") from error
    if not usable:
        raise InputError(f"{key}: {there} cannot be written; give a directory that can")


def temporary_name(path: Path) -> Path:
    """Return a name in the same directory that no reader looks at, and no other writer uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def unwritable(path: AnyPath, error: OSError) -> JobError:
    """Build the error for a file that cannot be written."""
    remedy = "what is finished is kept: make room or give write access, then run the same command again"
    return JobError(f"{path}: cannot be written ({error.strerror or error}); {remedy}")


def _scratch() -> Path:
    """Make a new empty file in local temporary storage."""
    descriptor, name = tempfile.mkstemp(prefix="flowpairs-")
    os.close(descriptor)
    return Path(name)


def _commit(temporary: Path, path: Path) -> None:
    """Rename a file that is already on disk to its final name, and make the rename durable."""
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class HashingFile:
    """A file that counts and hashes the bytes that pass through.

    Args:
        file: file to write to; None only hashes.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.file, self.sha256, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash bytes."""
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data) if self.file is None else self.file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        if self.file is not None:
            self.file.flush()
