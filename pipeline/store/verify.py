"""Verification of a pair store: every byte is read and checked. A store with a fault is never trained on."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from scipy.special import gammaln

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.records import Decoder, read_meta, samples
from flowpairs.pipeline.store.shard_layout import damage

ROW_DIGITS = 9  # at the least, at the end of a record's key


@dataclass
class Verdict:
    """What was read, and every fault found, one sentence each.

    `draw_error` is the L1 distance, at most 2, between the frequencies at which data were drawn and their weights,
    equal ones where the rows have none; `chance_error` is its mean over as many independent draws. A coupling's draws
    stay at or below chance. All data are compared; in a chain, and where a store has no rows, those that occur. `data`
    is the number of data, with mirror images where one occurs; None where the store has no rows, or its pairs hold
    samples of a flow instead. `recomputed` blocks were computed again, and what differed is among the faults.
    """

    directory: str
    shards: int = 0
    records: int = 0
    pairs: int = 0
    bytes: int = 0
    data_used: int = 0
    data: int | None = None
    draw_error: float = 0.0
    chance_error: float = 0.0
    recomputed: int = 0
    faults: list[str] = field(default_factory=list)


def verify(directory: AnyPath) -> Verdict:
    """Check sizes, hashes, counts, record keys, fields, shapes, finiteness and data ids of every shard.

    Raises:
        InputError: no complete pair store is there.
    """
    index = format.read_index(directory)
    verdict = Verdict(str(directory))
    seen = _Seen(Decoder(directory, index))
    if format.needs_rows(index.payload, index.method) or (directory / "rows").is_dir():
        _check_rows(directory, index, verdict)
        if verdict.faults:
            return verdict
    for side in ("features", "source_features"):
        if (directory / side / row_set.MANIFEST).is_file():
            verdict.faults += row_set.damages(directory / side)
    if index.method == "semidiscrete":
        _check_potentials(directory, verdict)
    listed = {name for shard in index.shards for name in (shard.name, _sidecar_name(shard))}
    shards = directory / "shards"
    there = {file.name for file in shards.iterdir()} if shards.is_dir() else set()
    for name in sorted(there - listed):
        if not name.startswith("."):  # temporaries, and what file managers and network file systems leave
            verdict.faults.append(f"{name}: not listed in the index; remove it")
    for shard in index.shards:
        _check_shard(shard, seen, verdict)
    if verdict.pairs != index.pairs:
        verdict.faults.append(f"index.json: promises {index.pairs} pairs, the shards hold {verdict.pairs}")
    if seen.data_ids:
        verdict.data_used = len(seen.data_ids)
        _compare_draws(directory, index, seen.data_ids, verdict)
    return verdict


def _compare_draws(directory: AnyPath, index: format.Index, drawn: Counter[int], verdict: Verdict) -> None:
    """Compare how often data were drawn with how often they should have been."""
    ids, counts = np.array(list(drawn)), np.array(list(drawn.values()), np.float64)
    weights = None
    if index.method != "reflow" and (directory / "rows" / row_set.MANIFEST).is_file():
        try:
            decoder = Decoder(directory, index)
            weights, data = decoder.data_weights, len(decoder.data)
            verdict.data = 2 * data if ids.max() >= data else data
        except (OSError, ValueError) as error:
            verdict.faults.append(f"rows/weight.npy cannot be read ({error}); {row_set.REMEDY}")
            return
    wanted = np.ones(len(ids)) if weights is None else weights[ids % len(weights)]
    if not wanted.any():
        verdict.faults.append("rows/weight.npy: 0 for all data that were drawn; remove rows and couple again")
        return
    total, of_each, alike = wanted.sum(), wanted, 1.0
    if verdict.data is not None and not index.times:  # data that were never drawn count, too
        of_each = np.ones(1) if weights is None else weights
        alike = verdict.data / len(of_each)
        total = of_each.sum() * alike
    never = max(0.0, 1 - wanted.sum() / total)
    verdict.draw_error = float(np.abs(counts / counts.sum() - wanted / total).sum() + never)
    verdict.chance_error = float(alike * mean_deviation(counts.sum(), of_each / total).sum())


def mean_deviation(draws: float, share: np.ndarray) -> np.ndarray:
    """Compute E |k / n - p| of a binomial k of n draws, for each probability p, by De Moivre's formula."""
    p = np.clip(share, np.finfo(float).tiny, 1 - np.finfo(float).epsneg)
    above = np.floor(draws * p) + 1
    choose = gammaln(draws + 1) - gammaln(above + 1) - gammaln(draws - above + 1)
    return 2 * above / draws * np.exp(choose + above * np.log(p) + (draws - above + 1) * np.log1p(-p))


@dataclass
class _Seen:
    """What is collected over all shards, and the decoder of all."""

    decoder: Decoder
    keys: set[str] = field(default_factory=set)
    data_ids: Counter[int] = field(default_factory=Counter)  # how often each datum was drawn


def _sidecar_name(shard: format.Shard) -> str:
    return shard.name.removesuffix("tar") + "json"


def _check_shard(shard: format.Shard, seen: _Seen, verdict: Verdict) -> None:
    """Check one shard; a wrong hash is reported once, and the shard's content is then not checked."""
    remedy = "remove it and its sidecar, then run the same `flowpairs couple` again"
    shards = seen.decoder.directory / "shards"
    path, found = shards / shard.name, damage(seen.decoder.directory, shard)
    if found:
        verdict.faults.append(f"{shard.name}: {found}; {remedy}")
        return
    recorded = _recorded(shards / _sidecar_name(shard))
    if recorded != shard:
        said = "is missing" if recorded is None else "says otherwise than the index"
        verdict.faults.append(f"{shard.name}: its sidecar {said}; {remedy}")
    verdict.shards += 1
    verdict.bytes += shard.bytes
    records, pairs, begin = 0, 0, format.record_key(shard.block, 0)[:-ROW_DIGITS]
    try:
        for key, fields in samples(path):
            records += 1
            row = key.removeprefix(begin)
            if row == key or len(row) < ROW_DIGITS or not (row.isascii() and row.isdigit()):
                verdict.faults.append(f"{shard.name}: record {key!r} is no record of block {shard.block}")
            if key in seen.keys:
                verdict.faults.append(f"{shard.name}: record {key} stands twice")
            seen.keys.add(key)
            try:
                data_ids = _check_record(fields, seen.decoder)
                seen.data_ids.update(data_ids)
                pairs += len(data_ids)
            except (ValueError, KeyError) as error:
                verdict.faults.append(f"{shard.name}: record {key}: {error}")
    except InputError as error:
        verdict.faults.append(str(error))
    if (records, pairs) != (shard.records, shard.pairs):
        counts = f"{records} records and {pairs} pairs, where the index says {shard.records} and {shard.pairs}"
        verdict.faults.append(f"{shard.name}: {counts}; {remedy}")
    verdict.records += records
    verdict.pairs += pairs


def _recorded(path: AnyPath) -> format.Shard | str | None:
    """Read a shard's entry in its sidecar: None where the file is missing, its fault where it is no sidecar."""
    if not path.is_file():
        return None
    try:
        return format.read_sidecar(path).shard
    except InputError as error:
        return str(error)


def _check_record(fields: dict[str, bytes], decoder: Decoder) -> list[int]:
    """Check a record and return the data ids of its pairs.

    What is looked up in the store's copies of data, or made again from a seed, is finite where those are: of it only
    the ids and rows are checked.

    Raises:
        ValueError, KeyError: the record breaks the format.
    """
    index = decoder.index
    there = {"label": index.num_classes, "weight": index.weighted, "source_ids": index.two_sided, "span": index.times}
    held = {"x0": index.payload == "full", "x1": index.payload != "ids"}
    again = index.payload != "full" and not index.two_sided  # x0 is noise that has to come back
    names = ("data_ids", *(name for name, given in (there | held | {"rows": again}).items() if given))
    arrays = decoder.decode(fields, names)
    if again and not (type(seed := read_meta(fields).get("seed")) is int and 0 <= seed < 2**63):
        raise ValueError(f"meta.json: seed {seed!r} is no integer in [0, 2^63)")
    for name in ("data_ids", "source_ids"):
        if name in arrays and arrays[name].min(initial=0) < 0:
            raise ValueError(f"{name}: one is negative")
    for name in ("x0", "x1"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has NaN or Inf")
    if index.num_classes and not ((arrays["label"] >= 0) & (arrays["label"] < index.num_classes)).all():
        raise ValueError(f"a label is not below {index.num_classes}")
    if index.weighted and not (np.isfinite(arrays["weight"]) & (arrays["weight"] >= 0)).all():
        raise ValueError("a weight is negative, NaN or Inf")
    return arrays["data_ids"].tolist()


def _finite(rows: Rows) -> bool:
    """Return whether all values are finite, looked at in parts, as the files may exceed the memory."""
    if rows.dtype == "uint8":
        return True
    return all(np.isfinite(rows.take(ids)).all() for ids in rows.chunks(np.arange(len(rows))))


def _check_rows(directory: AnyPath, index: format.Index, verdict: Verdict) -> None:
    """Check the rows of both sides against their manifests, and these against the index."""
    expected = {"target": index.data_fingerprint, "source": index.source_fingerprint}
    for side in format.row_sides(index):
        where = format.rows_directory(directory, side)
        faults = row_set.damages(where)
        if not faults and row_set.read_manifest(where).fingerprint != expected[side]:
            faults = [f"{where}: not the data that were coupled; {row_set.REMEDY}"]
        if not faults and not _finite(row_set.open_target(where).rows):
            faults = [f"{where}: has NaN or Inf; mend the data set and couple into a new directory"]
        verdict.faults += faults


def _check_potentials(directory: AnyPath, verdict: Verdict) -> None:
    """Check the potentials by which pairs were assigned against their hash."""
    from flowpairs.pipeline.store import potential_files

    try:
        potential_files.load_potentials(directory)
    except InputError as error:
        verdict.faults.append(str(error))
