"""Labels -> class ids: integers as they are, anything else numbered in the order of its names.

Stored as                             class id
integers, whole floats, [n, 1], text of integers   the integer; numbered where few of them are spread wide
bool                                  0 and 1, named False and True
text, categories                      numbered in the order of the names, whole numbers before text
Hugging Face's ClassLabel             the integer, named by the file's metadata
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.data.spec import DataSpec

WHOLE = re.compile(r"[+-]?\d+(\.0*)?")
GAPPY, MANY = 10, 1_000  # ids of more than MANY classes, of which fewer than 1 / GAPPY occur, are numbered anew
HUGE = 1_000_000  # classes that are taken for a mistake where not all labels have been read
BOOL = ("False", "True")


def plain_labels(raw: Any, rows: int, where: str) -> tuple[Shaped[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Bring labels of any type to int64 or text.

    Args:
        raw: array or list of labels as a format stores them.
        rows: rows that they belong to.
        where: head of the error sentence.

    Returns:
        int64, or object of str; and which labels are missing.

    Raises:
        InputError: not one label a row, fractions, integers that int64 cannot hold.
    """
    values = np.asarray(raw) if isinstance(raw, np.ndarray) else _object_array(raw)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (rows,):
        raise InputError(f"{where}: labels of shape {list(values.shape)} for {rows} rows; give one class a row")
    missing = np.zeros(rows, bool)
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        values = np.where(missing, 0, values)
        if not (values == np.floor(values)).all() or not (np.abs(values) < 2.0**63).all():
            found = values[values != np.floor(values)]
            raise InputError(
                f"{where}: labels such as {(found if len(found) else values)[0]:g}; give class ids or names"
            )
    if values.dtype.kind == "u" and rows and int(values.max()) >= 2**63:
        raise InputError(f"{where}: label {int(values.max())} is beyond 64 bits; store class ids 0, 1, 2, ... or names")
    if values.dtype.kind in "iuf":
        return values.astype(np.int64), missing
    if values.dtype.kind == "b":
        return np.array(BOOL, object)[values.astype(int)], missing
    if values.dtype.kind not in "OUS":
        raise InputError(f"{where}: labels of dtype {values.dtype}; store class ids 0, 1, 2, ... or names")
    texts = [_text(value, where) for value in values.tolist()]
    missing = np.array([text is None for text in texts], bool)
    return _object_array(["" if text is None else text for text in texts]), missing


class Classes:
    """The distinct labels seen so far, and how often each was."""

    def __init__(self, where: str, by_name: bool = False) -> None:
        self.where, self.by_name = where, by_name  # whether text of integers is names, as that of folders
        self.seen: Counter[int | str] = Counter()

    def add(self, values: Shaped[np.ndarray, " n"]) -> None:
        """Record labels that `plain_labels` gave."""
        if values.dtype == np.int64:
            labels, counts = np.unique(values, return_counts=True)
            self.seen.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
        else:
            self.seen.update(values.tolist())

    def refuse_beyond(self, classes: int) -> None:
        """Refuse labels that are no ids of so many classes.

        Raises:
            InputError: there are such labels.
        """
        wrong = sorted(value for value in self.seen if not (isinstance(value, int) and 0 <= value < classes))
        if wrong:
            raise InputError(
                f"{self.where}: label {wrong[0]} where the file names {classes:,} classes, from 0 on; remove such rows"
            )

    def numbering(self, complete: bool) -> tuple[int, tuple[str, ...], bool]:
        """Choose the class ids.

        Args:
            complete: whether all labels have been recorded.

        Returns:
            The number of classes, their names in order, and whether labels are looked up among the names.

        Raises:
            InputError: negative ids, or ids that only a mistake explains.
        """
        texts = {value for value in self.seen if isinstance(value, str)}
        whole = texts and not self.by_name and all(WHOLE.fullmatch(text) for text in texts)
        ids = (
            {int(float(value)) if isinstance(value, str) and "." in value else int(value) for value in self.seen}
            if (whole or not texts)
            else set()
        )
        if ids:
            least, most = min(ids), max(ids)
            if least < 0:
                raise InputError(f"{self.where}: label {least} is negative; store class ids 0, 1, 2, ... or names")
            if most >= 2**63:
                raise InputError(f"{self.where}: label {most} is beyond 64 bits; store class ids 0, 1, 2, ... or names")
            if complete and most >= MANY and most + 1 > GAPPY * len(ids):
                return len(ids), tuple(map(str, sorted(ids))), True
            if most >= HUGE:
                raise InputError(
                    f"{self.where}: label {most} makes {most + 1:,} classes, of which the rows read so far have "
                    f"{len(ids)}; store class ids 0, 1, 2, ... or names"
                )
            return most + 1, (), False
        if not texts:
            return 0, (), False
        names = BOOL if texts <= set(BOOL) else ordered(texts)
        return len(names), names, True


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names, those that are whole numbers by their value and first."""
    return tuple(sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))


def class_ids(values: Shaped[np.ndarray, " n"], spec: DataSpec, where: str) -> Int64[np.ndarray, " n"]:
    """Convert labels that `plain_labels` gave to class ids.

    Raises:
        InputError: a label that `check_data` did not see, negative, or text where ids were found.
    """
    if spec.numbered:
        ids = {name: number for number, name in enumerate(spec.class_names)}
        texts = [str(value) for value in values.tolist()]
        if spec.class_names and all(name.isdecimal() for name in spec.class_names):
            texts = [str(int(float(text))) if WHOLE.fullmatch(text) and text not in ids else text for text in texts]
        unknown = sorted(set(texts) - ids.keys())
        if unknown:
            raise InputError(
                f"{where}: label {unknown[0]!r} was not among those found when the data were checked; "
                "number the classes 0, 1, 2, ..., or run again when nothing writes to the data"
            )
        return np.array([ids[text] for text in texts], np.int64)
    if values.dtype != np.int64:
        bad = next((text for text in values.tolist() if not WHOLE.fullmatch(text)), None)
        if bad is not None:
            raise InputError(f"{where}: label {bad!r} among integers; store class ids 0, 1, 2, ... or names throughout")
        values = np.array([int(text.partition(".")[0]) for text in values.tolist()], np.int64)
    if len(values) and values.min() < 0:
        raise InputError(f"{where}: label {values.min()} is negative; store class ids 0, 1, 2, ... or names")
    most = len(spec.class_names) or HUGE
    if len(values) and values.max() >= most:
        raise InputError(f"{where}: label {values.max()} where there are at most {most:,} classes; mend the labels")
    return values


def _object_array(values: Any) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def _text(value: Any, where: str) -> str | None:
    """Convert one label of an object array to text; None where it is missing."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode().strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: a label that is not text ({error}); store class ids or names") from error
    if isinstance(value, float) and value == int(value):
        value = int(value)
    if not isinstance(value, str | int | np.integer | np.bool_):
        raise InputError(f"{where}: a label of type {type(value).__name__}; store class ids 0, 1, 2, ... or names")
    return str(value)
