"""The files of a row set: a directory that holds a data set in parts, read with numpy alone.

    part-00000.npy   rows [r, *shape] in their dtype, about 256 MiB a part; part k holds rows k R to (k + 1) R
    label.npy        class ids [N] int64, where there are labels; weight.npy, time.npy, growth.npy [N] float64, too
    manifest.json    written last: shape, dtype, scale, classes, the parts with their SHA-256, and the fingerprint
    source.json      what the rows were made from, so that an interrupted job goes on with the same data
    part-00000.json  until the manifest is written: sidecar of a finished part; its columns are in part-00000.npz

The fingerprint is a hash over shape, dtype, and the hashes of parts and labels, which are found where they are written.
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any

import numpy as np
from jaxtyping import Shaped
from pydantic import Field, TypeAdapter, ValidationError

from flowpairs.pipeline.base.atomic import HashingFile, atomic_open, copy_file, write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import load_npy
from flowpairs.pipeline.base.paths import AnyPath, refuse_special
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.data.spec import DataKind, Kept

FORMAT_VERSION = 2
PART_BYTES = 2**28
MANIFEST, SOURCE = "manifest.json", "source.json"
COLUMNS = {"label": "int64", "weight": "float64", "time": "float64", "growth": "float64"}
SCALES = {"uint8": "x / 127.5 - 1", "float16": "x", "float32": "x"}
REMEDY = "remove the directory and couple again"

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Part:
    """One file of rows or of a column."""

    name: Annotated[str, Field(pattern=r"^[a-z]+(-\d{5,})?\.npy$")]  # no path leads out of the directory
    rows: Size
    bytes: Size
    sha256: Hash


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json.

    Attributes:
        rows: number of data.
        shape: shape of a datum, channels first for images.
        dtype: dtype of the parts.
        scale: model space in terms of a stored number x.
        kind: image or vector.
        num_classes: 0 where there are no labels.
        class_names: names of the classes by their ids, where the data have some.
        parts: files of rows, in order.
        columns: files of labels, weights and times.
        fingerprint: hash over shape, dtype, and the hashes of parts and labels.
        left_out: number of rows that could not be read and were skipped.
    """

    rows: Size
    shape: tuple[Size, ...]
    dtype: Kept
    scale: str
    kind: DataKind
    num_classes: Annotated[int, Field(ge=0)]
    class_names: tuple[str, ...]
    parts: tuple[Part, ...]
    columns: tuple[Part, ...]
    fingerprint: Hash
    left_out: Annotated[int, Field(ge=0)] = 0
    format_version: int = FORMAT_VERSION

    def column(self, name: str) -> Part | None:
        """Return the file of a column; None where the set has none."""
        return next((part for part in self.columns if part.name == f"{name}.npy"), None)


def rows_per_part(shape: tuple[int, ...], dtype: str) -> int:
    """Count the rows of a part."""
    return max(1, PART_BYTES // (math.prod(shape) * np.dtype(dtype).itemsize))


def part_name(number: int) -> str:
    """Name the file of a part by its number."""
    return f"part-{number:05d}.npy"


def fingerprint(shape: Sequence[int], dtype: str, parts: Sequence[Part], columns: Sequence[Part]) -> str:
    """Compute the fingerprint of a set from the hashes of its files."""
    labels = [part.sha256 for part in columns if part.name == "label.npy"]
    tree = {"shape": list(shape), "dtype": dtype, "parts": [part.sha256 for part in parts], "label": labels}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def fingerprint_of(x: Shaped[np.ndarray, "n ..."], columns: Mapping[str, np.ndarray]) -> str:
    """Compute the fingerprint that a set of this array and these columns has."""
    step, files = rows_per_part(x.shape[1:], str(x.dtype)), []
    for number, start in enumerate(range(0, len(x), step)):
        files.append(_described(part_name(number), x[start : start + step]))
    labels = [_described("label.npy", columns["label"])] if "label" in columns else []
    return fingerprint(x.shape[1:], str(x.dtype), files, labels)


def write_part(path: AnyPath, values: Shaped[np.ndarray, "n ..."]) -> Part:
    """Write one file of rows or of a column, hashed on the way."""
    with atomic_open(path) as file:
        hashing = HashingFile(file)
        _write(hashing, values)
    return Part(path.name, len(values), hashing.bytes, hashing.sha256.hexdigest())


def write_manifest(directory: AnyPath, manifest: Manifest) -> None:
    """Write manifest.json: from then on the set is complete."""
    write_atomically(directory / MANIFEST, (json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n").encode())


def read_manifest(directory: AnyPath) -> Manifest:
    """Read the manifest of a row set.

    Raises:
        InputError: there is none, or it is damaged or of another version.
    """
    path = directory / MANIFEST
    try:
        refuse_special(path)
        data = path.read_bytes()
        version = json.loads(data).get("format_version")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as the manifest of rows ({error}); {REMEDY}") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format_version={version!r}, this program reads {FORMAT_VERSION}; {REMEDY}")
    try:
        manifest = _adapter().validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: not the manifest of rows ({where}: {first['msg']}); {REMEDY}") from error
    whole = sum(part.rows for part in manifest.parts) == manifest.rows
    if not whole or any(part.rows != manifest.rows for part in manifest.columns):
        raise InputError(f"{path}: promises {manifest.rows} rows, and its files hold others; {REMEDY}")
    return manifest


def write_identity(directory: AnyPath, identity: str) -> None:
    """Record what a set is made from, as a hash, before its first part."""
    write_atomically(directory / SOURCE, (json.dumps({"identity": identity}) + "\n").encode())


def read_identity(directory: AnyPath) -> str | None:
    """Read what a set was made from; None where that is not recorded."""
    try:
        refuse_special(directory / SOURCE)
        return json.loads((directory / SOURCE).read_bytes())["identity"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def lost_files(directory: AnyPath) -> list[str]:
    """List the files of a set that are missing or cut short; the manifest where that is missing or damaged."""
    try:
        manifest = read_manifest(directory)
    except InputError:
        return [MANIFEST]
    lost = []
    for part in (*manifest.parts, *manifest.columns):
        path = directory / part.name
        if not path.is_file() or path.stat().st_size != part.bytes:
            lost.append(part.name)
    return lost


def clear(directory: AnyPath) -> None:
    """Remove the files of a set, the manifest first."""
    (directory / MANIFEST).unlink(missing_ok=True)
    there: list[AnyPath] = list(directory.iterdir()) if directory.is_dir() else []
    for path in there:
        if path.is_file():
            path.unlink(missing_ok=True)


def copy_set(source: AnyPath, destination: AnyPath) -> None:
    """Copy a complete set, by hard links where both are on one disk; its manifest comes last.

    Raises:
        InputError: the source is no complete set.
    """
    manifest = read_manifest(source)
    destination.mkdir(parents=True, exist_ok=True)
    names = [part.name for part in (*manifest.parts, *manifest.columns)]
    others = [name for name in ("map.npz", SOURCE) if (source / name).is_file()]
    for name in (*names, *others, MANIFEST):
        copy_file(source / name, destination / name)


def open_rows(directory: AnyPath, manifest: Manifest) -> Rows:
    """Open the rows of a set."""
    parts = [directory / part.name for part in manifest.parts]
    counts, hashes = [part.rows for part in manifest.parts], [part.sha256 for part in manifest.parts]
    return Rows(parts, counts, manifest.shape, manifest.dtype, hashes)


def read_column(directory: AnyPath, manifest: Manifest, name: str) -> np.ndarray | None:
    """Read labels, weights or times, checked against their hash; None where the set has none.

    Raises:
        InputError: the file is missing, damaged, or not what the manifest says.
    """
    part = manifest.column(name)
    if part is None:
        return None
    path = directory / part.name
    try:
        values = load_npy(path)
        whole = values.dtype == COLUMNS[name] and values.shape == (manifest.rows,)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    if not whole or _described(part.name, values) != part:
        raise InputError(f"{path}: not the column that the manifest lists; {REMEDY}")
    return values


def open_target(directory: AnyPath) -> Target:
    """Open a row set as a data set.

    Raises:
        InputError: the manifest or a column is missing or damaged.
    """
    manifest = read_manifest(directory)
    columns = {name: read_column(directory, manifest, name) for name in COLUMNS}
    return Target(
        rows=open_rows(directory, manifest),
        labels=columns["label"],
        num_classes=manifest.num_classes,
        fingerprint=manifest.fingerprint,
        weights=columns["weight"],
        times=columns["time"],
        growth=columns["growth"],
        class_names=manifest.class_names,
        kind=manifest.kind,
        left_out=manifest.left_out,
        directory=directory,
    )


def damages(directory: AnyPath) -> list[str]:
    """Read a set in full; return a sentence for everything that is wrong."""
    try:
        manifest = read_manifest(directory)
    except InputError as error:
        return [str(error)]
    faults = []
    for part in (*manifest.parts, *manifest.columns):
        path = directory / part.name
        try:
            refuse_special(path)
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            faults.append(f"{path}: cannot be read ({error.strerror or error}); {REMEDY}")
            continue
        if found != part.sha256:
            faults.append(f"{path}: has another SHA-256 than its manifest says; {REMEDY}")
    if manifest.fingerprint != fingerprint(manifest.shape, manifest.dtype, manifest.parts, manifest.columns):
        faults.append(f"{directory / MANIFEST}: its fingerprint is not that of its files; {REMEDY}")
    return faults


@cache
def _adapter() -> Any:
    return TypeAdapter(Manifest)


def _write(into: HashingFile, values: np.ndarray) -> None:
    """Write an array in .npy format 1.0, without a copy of its numbers."""
    values = np.ascontiguousarray(values)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    into.write(header.getvalue())
    into.write(values.reshape(-1).view(np.uint8).data)


def _described(name: str, values: np.ndarray) -> Part:
    """Describe the file that an array would be."""
    hashing = HashingFile()
    _write(hashing, values)
    return Part(name, len(values), hashing.bytes, hashing.sha256.hexdigest())
