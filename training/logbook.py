"""The log of a run: metrics.jsonl, a line per log interval, and the same numbers for TensorBoard."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pipeline.files import write_atomically
from training.loop import LogLine

TAIL_BYTES = 4096  # more than any line


class Logbook:
    """Appends to the log of a run that starts or goes on at `step`; lines past that step are cut.

    Args:
        directory: of the run.
        step: the last one that the checkpoint has seen.
    """

    def __init__(self, directory: Path, step: int) -> None:
        path = directory / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", buffering=1)
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, line: LogLine) -> None:
        """Append one line."""
        scalars = asdict(line)
        self._file.write(json.dumps(scalars) + "\n")
        step = scalars.pop("step")
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines; a last line without its end, as a killed run leaves it, is passed over."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def newest_metrics(path: Path) -> dict[str, Any] | None:
    """The last complete line, without reading those before it."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    return json.loads(lines[-1]) if lines else None
