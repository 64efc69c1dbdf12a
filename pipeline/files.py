"""Files that are complete under their final name or not there at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.errors import JobError


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when the block ends and all of it is on disk; an exception leaves nothing.

    It is written under a temporary name in the same directory, synced, renamed, and the directory synced.

    Raises:
        JobError: a full or read-only disk.
    """
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _commit(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            remedy = "what is finished is kept: make room or give write access, then run the same command again"
            raise JobError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file of these bytes."""
    with whole(path) as file:
        file.write(data)


def write_array(path: Path, values: np.ndarray) -> None:
    """Write a .npy file."""
    with whole(path) as file:
        np.save(file, values, allow_pickle=False)


def temporary_name(path: Path) -> Path:
    """A name in the same directory that no reader looks at, one per process."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _commit(temporary: Path, path: Path) -> None:
    """Rename a file that is already on disk to its final name and make the rename durable."""
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
