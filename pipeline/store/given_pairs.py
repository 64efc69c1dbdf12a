"""A pair store of pairs that somebody else made, written in parts: by reflow, by distillation, by another library.

A part is a block of one shard with payload `full`. Parts may be written in any order and by several processes; one that
is there is never written again. Whoever finds all of them there writes the index. There is no config.yaml, since no
coupling job made the pairs.
"""

import hashlib
import json
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int64

from flowpairs.pipeline.base.atomic import refuse_unwritable
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.owner import is_empty
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.block_reports import write_blocks
from flowpairs.pipeline.store.records import Record
from flowpairs.pipeline.store.shard_layout import damage
from flowpairs.pipeline.store.writer import write_shard

MOST_PARTS = 1_000_000
ID_STEP = 2**32  # between the data ids of two parts, where none are given


def missing_of(directory: AnyPath, parts: int) -> list[int]:
    """List the parts that a store still lacks.

    Raises:
        InputError: another number of parts than the store was begun with, or another kind of directory.
    """
    if not 1 <= parts <= MOST_PARTS:
        raise InputError(f"parts={parts}: give a number from 1 to {MOST_PARTS:,}")
    refuse_unwritable(directory, f"directory {str(directory)!r}")
    if not (directory / "shards").is_dir():
        if not is_empty(directory):
            raise InputError(f"{str(directory)!r}: not empty and not a pair store; give an empty or a new directory")
        return list(range(parts))
    if (directory / "config.yaml").is_file():
        raise InputError(f"{str(directory)!r}: a store that `flowpairs couple` makes; give another directory")
    listed = {path.name for path in (directory / "shards").iterdir()}
    there = [part for part in range(parts) if _sidecar(directory, part).name in listed]
    for part in there[:1]:
        if (begun := format.read_sidecar(_sidecar(directory, part)).report.get("parts")) != parts:
            raise InputError(f"parts={parts}: {str(directory)!r} was begun with {begun}; give that, or a new directory")
    return sorted(set(range(parts)) - set(there))


def write_given(
    directory: AnyPath,
    x0: Float32[np.ndarray, "k ..."],
    x1: Float32[np.ndarray, "k ..."],
    labels: Int64[np.ndarray, " k"] | None,
    data_ids: Int64[np.ndarray, " k"] | None,
    part: int,
    parts: int,
) -> format.Index | None:
    """Write one part, unless it is there, and the index where all parts are.

    Args:
        directory: the store.
        x0: source rows.
        x1: target rows, of the same shape.
        labels: class ids, or None.
        data_ids: ids of x1, equal for equal data; None: no datum occurs twice.
        part: number of the part.
        parts: number of parts of the store.

    Returns: the index of the complete store; None while parts are missing.

    Raises:
        InputError: the part is there with other pairs, or has another shape than the others.
    """
    todo = missing_of(directory, parts)
    if not 0 <= part < parts:
        raise InputError(f"part={part}: give a number from 0 to {parts - 1}")
    ids = ID_STEP * part + np.arange(len(x1)) if data_ids is None else data_ids
    report = {
        "block": part,
        "parts": parts,
        "shape": list(x1.shape[1:]),
        "labelled": labels is not None,
        "classes": 0 if labels is None else int(labels.max()) + 1,
        "pairs": _fingerprint(x0, x1, ids, *([] if labels is None else [labels])),
    }
    if part in todo:
        (directory / "shards").mkdir(parents=True, exist_ok=True)
        write_shard(directory, part, part, _records(x0, x1, labels, ids), None, report)
        todo.remove(part)
    else:
        found = format.read_sidecar(_sidecar(directory, part))
        if found.report["pairs"] != report["pairs"]:
            raise InputError(
                f"part={part}: {str(directory)!r} has it with other pairs; remove {format.shard_name(part)} and its "
                "sidecar, or give another directory"
            )
    return None if todo else _finish(directory, parts)


def _sidecar(directory: AnyPath, part: int) -> AnyPath:
    return format.sidecar_path(directory, format.shard_name(part))


def _finish(directory: AnyPath, parts: int) -> format.Index:
    """Write the index of a store that has all its parts."""
    sidecars = format.read_sidecars(directory, [format.shard_name(part) for part in range(parts)])
    first = sidecars[0].report
    for number, sidecar in enumerate(sidecars):
        if found := damage(directory, sidecar.shard, content=False):
            raise InputError(f"{sidecar.shard.name}: {found}; remove it with its sidecar and write part {number} again")
        for key, what in (("shape", "data of shape"), ("labelled", "labels:")):
            if sidecar.report[key] != first[key]:
                raise InputError(
                    f"part={number}: {what} {sidecar.report[key]}, part 0 has {first[key]}; write both alike into a "
                    "new directory"
                )
    identity = [sidecar.report["pairs"] for sidecar in sidecars]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    index = format.Index(
        config_hash=fingerprint[:16],
        data_fingerprint=fingerprint,
        pairs=sum(sidecar.shard.pairs for sidecar in sidecars),
        shape=tuple(first["shape"]),
        num_classes=max(sidecar.report["classes"] for sidecar in sidecars),
        payload="full",
        method="imported",
        convention=format.IMPORTED,
        shards=tuple(sidecar.shard for sidecar in sidecars),
    )
    write_blocks(directory, [])
    format.write_index(directory, index)
    return index


def _records(x0: np.ndarray, x1: np.ndarray, labels: np.ndarray | None, ids: np.ndarray) -> Iterator[Record]:
    step = format.pairs_per_record(x1.shape[1:], "full")
    for start in range(0, len(x1), step):
        rows = slice(start, start + step)
        yield Record(start, x0[rows], x1[rows], ids[rows], None if labels is None else labels[rows], None, None)


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
