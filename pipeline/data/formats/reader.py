"""What a format has to be able to do: name its columns, count a file's rows, and give rows as they are stored.

A reader never holds more of a file than a batch or a row group. What is stored becomes rows of the model's shape, class
ids and numbers elsewhere, by one set of rules for all formats (`flowpairs.pipeline.data.uniform`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data.discover import Site
from flowpairs.pipeline.data.images import Unreadable
from flowpairs.pipeline.data.spec import FilePart

DEFAULT = "image"  # data.column where nobody chose; if there is no such column, the only one that can be data

# A row that is read by itself: an encoded image, an array, or why it cannot be used.
Item = bytes | Shaped[np.ndarray, "..."] | Unreadable


@dataclass
class Chunk:
    """Consecutive rows of a file as they are stored."""

    file: str | list[str]  # the file of all rows, or that of each
    row: int  # number of the first in the file
    x: Shaped[np.ndarray, "b *stored"] | list[Item]
    label: Any = None  # array or list of b labels
    columns: dict[str, Shaped[np.ndarray, " b"]] = field(default_factory=dict)  # weight, time
    names: list[str] | None = None  # of the rows, where they have any
    missing: np.ndarray | None = None  # bool [b]: rows that are null

    def __len__(self) -> int:
        return len(self.x)

    def origin(self, number: int) -> tuple[str, int]:
        """Return the file of a row, and the row's number in it."""
        if isinstance(self.file, str):
            return self.file, self.row + number
        return self.file[number], self.row


class Reader(ABC):
    """One format's files of one data set.

    Attributes:
        config: `data:` of the configuration.
        site: where the files lie.
        columns: the arrays, columns or fields that hold the data; () before `find_columns`.
        labelled: whether rows have labels.
        has_columns: whether the format has columns for weights and time points.
        rows_in_files: whether each file is a row.
        notes: what `check_data` says of the data.
        whole_labels: whether `labels` gives labels without the data.
    """

    has_columns: ClassVar[bool] = True
    rows_in_files: ClassVar[bool] = False
    whole_labels: ClassVar[bool] = False

    def __init__(self, config: DataConfig, site: Site, columns: tuple[str, ...] = ()) -> None:
        self.config, self.site, self.columns = config, site, columns
        self.notes: list[str] = []

    @property
    def labelled(self) -> bool:
        """Whether rows have labels."""
        return self.config.label is not None

    def find_columns(self, files: Sequence[str]) -> tuple[str, ...]:
        """Find the columns that hold the data, and check the headers of all files.

        Raises:
            InputError: a named column is missing, files disagree, or none or several columns can be the data.
        """
        return ()

    @abstractmethod
    def count(self, file: str) -> int:
        """Count a file's rows, without decoding where its header or footer says it."""

    @abstractmethod
    def chunks(self, file: str, start: int, stop: int | None, rows: int) -> Iterator[Chunk]:
        """Yield the rows of a file from `start` to `stop` in order, at most `rows` at a time."""

    def parts(self, parts: Sequence[FilePart], rows: int) -> Iterator[Chunk]:
        """Yield the rows of parts of files in order, at most `rows` at a time."""
        for part in parts:
            yield from self.chunks(part.path, part.start, part.stop, rows)

    def sequential(self, files: Sequence[str]) -> bool:
        """Return whether reading from the middle of a file costs as much as reading up to there."""
        return False

    def labels(self, file: str) -> Iterator[tuple[Any, int]]:
        """Yield all labels of a file and their number, where the format gives them without the data."""
        raise NotImplementedError

    def names_of_classes(self, file: str) -> tuple[str, ...] | None:
        """Read the names of the classes that integer labels number, where the file itself says them."""
        return None

    def quick_count(self, files: Sequence[str]) -> list[int] | None:
        """Count every file's rows where that takes no more than a header or footer of each; else None."""
        return [self.count(file) for file in files]

    def _open(self, file: str) -> Any:
        return self.site.filesystem.open(file, "rb")

    def _only(self, candidates: Sequence[str], all_names: Sequence[str], what: str) -> str:
        """Choose the column that holds the data where `data.column` names none that is there.

        Args:
            candidates: columns that can be data.
            all_names: all columns.
            what: how the sentence goes on after "no such", up to the names.

        Raises:
            InputError: none or several can be the data, or a column was named that is not there.
        """
        name = self.config.column
        if name in all_names:
            return name
        taken = {self.config.label, *self.config.columns().values()}
        candidates = [other for other in candidates if other not in taken]
        rest = [other for other in all_names if other not in taken]
        if name == DEFAULT and 1 in (len(candidates), len(rest)):
            return (candidates or rest)[0]  # the only one at all is refused for what it is
        listed = ", ".join(all_names) or "none"
        several = f"; {', '.join(candidates)} could be the data, name one" if name == DEFAULT and candidates else ""
        raise InputError(f"data.column={name!r}: no such {what} {listed}{several}")

    @contextmanager
    def _faults(self, file: str, kind: str, remedy: str = "replace it") -> Iterator[None]:
        """Turn what parsers raise on damaged files into a sentence."""
        try:
            yield
        except (InputError, FileNotFoundError):
            raise
        except Exception as error:  # parsers raise a dozen kinds of exceptions on a damaged file
            raise InputError(
                f"data.path={self.config.path!r}: {file} cannot be read as {kind} ({error}); {remedy}"
            ) from error
