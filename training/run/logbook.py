"""The log of a run: metrics.jsonl, with a line per log interval, written by the first worker and read by others."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.errors import InputError

if TYPE_CHECKING:
    from flowpairs.training.run.loop import LogLine

TAIL_BYTES = 4096  # more than any line


class Logbook:
    """A writer that appends to the log of a run which starts or resumes; lines after `step` are removed first.

    Args:
        path: the path of the log.
        step: the last step of the checkpoint that the run resumes from; 0 for a new run.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", buffering=1)

    def write(self, line: "LogLine") -> None:
        """Append one line."""
        self._file.write(json.dumps(asdict(line)) + "\n")

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()


class Follower:
    """A reader of the new lines of a growing log; it returns each step once, even if a resumed run logs it again.

    Args:
        path: the path of the log, which need not exist yet.
        step: the last step that is already known.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path, self._step = path, step
        self._file = self._read = 0  # the file's inode, and the bytes read of it

    def new(self) -> list[dict[str, Any]]:
        """Return the complete lines of later steps than any returned before."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            now = os.fstat(file.fileno())
            if now.st_ino != self._file or now.st_size < self._read:  # rewritten up to a checkpoint, in a new inode
                self._file, self._read = now.st_ino, 0
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = [line for line in _lines(whole, self._path) if line["step"] > self._step]
        if lines:
            self._step = lines[-1]["step"]
        return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read all complete lines; an incomplete last line, as a killed run leaves it, is skipped.

    Raises:
        InputError: a line is none of a log.
    """
    if not path.is_file():
        return []
    data = path.read_bytes()
    return _lines(data[: data.rfind(b"\n") + 1], path)


def newest_metrics(path: Path) -> dict[str, Any] | None:
    """Read the last complete line, without reading the whole file; None if there is none.

    Raises:
        InputError: it is no line of a log.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    found = _lines(lines[-1], path) if lines else []
    return found[0] if found else None


def _lines(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Parse lines, each of which names numbers and has a step."""
    out = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue  # what follows the last one
        try:
            found = json.loads(line)
            whole = isinstance(found, dict) and type(found.get("step")) is int
            if not whole or not all(type(value) in (int, float) for value in found.values()):
                raise ValueError("no object of numbers with a step")
        except (ValueError, RecursionError) as error:
            reason = f"{path}: line {number} is none of a log ({str(error)[:100]})"
            raise InputError(f"{reason}; remove that line, or the file") from error
        out.append(found)
    return out
