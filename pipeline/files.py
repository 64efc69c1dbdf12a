"""Files that are complete under their final name or not there at all."""

import os
from pathlib import Path

import numpy as np


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name in the same directory, fsync, rename, and fsync the directory."""
    temporary = temporary_name(path)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    commit(temporary, path)


def commit(temporary: Path, path: Path) -> None:
    """Rename a file that is already on disk to its final name and make the rename durable."""
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def temporary_name(path: Path) -> Path:
    """A name in the same directory that no reader looks at, one per process."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_array(path: Path, values: np.ndarray) -> None:
    """Write a .npy file under its final name only when it is whole."""
    temporary = temporary_name(path)
    with temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    commit(temporary, path)
