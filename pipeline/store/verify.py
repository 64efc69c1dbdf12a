"""Reading every byte of a pair store and holding it against its index. A store with a fault is never trained on."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from pipeline.store import format


@dataclass
class Verdict:
    """What was read, and every fault found, one sentence each."""

    directory: str
    shards: int = 0
    records: int = 0
    pairs: int = 0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)


def verify(directory: Path) -> Verdict:
    """Check sizes, hashes, counts, record keys, fields, shapes, finiteness and data ids of every shard.

    Raises:
        InputError: no complete pair store is there.
    """
    index = format.read_index(directory)
    verdict = Verdict(str(directory))
    keys: set[str] = set()
    known = {shard.name for shard in index.shards}
    for path in sorted((directory / "shards").iterdir()):
        if path.name not in known and path.with_suffix(".tar").name not in known:
            verdict.faults.append(f"{path.name}: not listed in the index; remove it")
    for shard in index.shards:
        _check_shard(directory / "shards" / shard.name, shard, index, keys, verdict)
    if verdict.pairs != index.pairs:
        verdict.faults.append(f"index.json: promises {index.pairs} pairs, the shards hold {verdict.pairs}")
    return verdict


def _check_shard(path: Path, shard: format.Shard, index: format.Index, keys: set[str], verdict: Verdict) -> None:
    """Check one shard; a wrong hash is told once and its content is not looked at."""
    remedy = "remove it, then run the same `flowpairs couple` again"
    if not path.is_file():
        verdict.faults.append(f"{shard.name}: missing; {remedy}")
        return
    if not path.with_suffix(".json").is_file():
        verdict.faults.append(f"{shard.name}: its sidecar is missing; {remedy}")
    elif format.read_sidecar(path.with_suffix(".json")).shard != shard:
        verdict.faults.append(f"{shard.name}: its sidecar says otherwise than the index; {remedy}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    verdict.shards += 1
    verdict.bytes += path.stat().st_size
    if path.stat().st_size != shard.bytes or sha256 != shard.sha256:
        verdict.faults.append(f"{shard.name}: its bytes are not those that the index recorded; {remedy}")
        return
    records = pairs = 0
    for key, fields in _samples(path):
        records += 1
        if key in keys:
            verdict.faults.append(f"{shard.name}: record {key} stands twice")
        keys.add(key)
        try:
            pairs += _check_record(fields, index)
        except (ValueError, KeyError) as error:
            verdict.faults.append(f"{shard.name}: record {key}: {error}")
    if (records, pairs) != (shard.records, shard.pairs):
        found = f"{records} records and {pairs} pairs, where the index says {shard.records} and {shard.pairs}"
        verdict.faults.append(f"{shard.name}: {found}; {remedy}")
    verdict.records += records
    verdict.pairs += pairs


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and fields of each record of a tar whose hash is known to be right."""
    with tarfile.open(path, "r:") as tar:
        members = ((member.name.partition("."), tar.extractfile(member)) for member in tar)
        for key, fields in groupby(members, lambda item: item[0][0]):
            yield key, {name: file.read() for (_, _, name), file in fields if file is not None}


def _check_record(fields: dict[str, bytes], index: format.Index) -> int:
    """The number of pairs in a record; ValueError or KeyError where it breaks the format."""
    meta = json.loads(fields["meta.json"])
    count = len(meta["data_ids"])
    if min(meta["data_ids"], default=0) < 0:
        raise ValueError("a data id is negative")
    for name in ("x0.npy", "x1.npy"):
        array = np.load(io.BytesIO(fields[name]), allow_pickle=False)
        if array.shape != (count, *index.shape) or array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not float32 {(count, *index.shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has NaN or Inf")
    if index.num_classes:
        labels = np.load(io.BytesIO(fields["label.npy"]), allow_pickle=False)
        if labels.shape != (count,) or labels.min() < 0 or labels.max() >= index.num_classes:
            raise ValueError(f"label.npy is not {count} labels below {index.num_classes}")
    return count


def print_verdict(directory: Path, *, as_json: bool) -> bool:
    """Print the verdict, for a person or as one JSON object; True where no fault was found."""
    verdict = verify(directory)
    if as_json:
        print(json.dumps({**vars(verdict), "ok": not verdict.faults}))
        return not verdict.faults
    for fault in verdict.faults:
        print(fault)
    counted = (
        f"{verdict.shards:,} shards, {verdict.records:,} records, {verdict.pairs:,} pairs, {verdict.bytes:,} bytes"
    )
    print(f"{directory}: {counted}: {f'{len(verdict.faults)} faults' if verdict.faults else 'whole'}")
    return not verdict.faults
