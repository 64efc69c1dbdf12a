"""Conversion of a store's pairs to another payload, bit by bit what the coupling job would have written with it."""

from collections.abc import Iterator

import numpy as np

from flowpairs.pipeline import config as configs
from flowpairs.pipeline.base.atomic import copy_file, write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.owner import is_empty, owned, refuse_owned
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.base.progress import progress
from flowpairs.pipeline.blocks.feature_store import MAP
from flowpairs.pipeline.cluster.executor import uses_ray
from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.solve.inputs import read_inputs, save_inputs, survey_inputs
from flowpairs.pipeline.store import format, resume
from flowpairs.pipeline.store.potential_files import block_file, copy_potentials
from flowpairs.pipeline.store.records import Decoder, Record, read_meta, samples
from flowpairs.pipeline.store.shard_layout import damage
from flowpairs.pipeline.store.writer import write_shard


def convert(source: AnyPath, destination: AnyPath, payload: str) -> format.Index:
    """Write the pairs of one store into a new one; run again, it goes on after the last finished shard.

    Args:
        source: a complete pair store.
        destination: a new or empty directory, or one in which the same conversion was interrupted.
        payload: full, seeded or ids; the last reads the data set again where the source no longer has its rows.

    Raises:
        InputError: no complete store, an unknown payload, a destination in use, or pairs that the payload cannot hold.
    """
    index = format.read_index(source)
    if sum(shard.pairs for shard in index.shards) != index.pairs:
        raise InputError(f"{source}/index.json: promises {index.pairs} pairs, and its shards hold others; couple again")
    tree = configs.load(CoupleConfig, source / "config.yaml").model_dump(mode="json")
    tree["output"] |= {"dir": str(destination), "payload": payload}
    config, key = configs.validate(CoupleConfig, tree), f"destination {str(destination)!r}"
    refuse_owned(destination, key)
    if finished := _begun(config, destination, key):
        return finished
    with owned(destination, key, "flowpairs convert"):
        resume.prepare_store(config, destination)
        _take_rows(config, index, source, destination)
        return _convert(config, index, source, destination)


def _begun(config: CoupleConfig, destination: AnyPath, key: str) -> format.Index | None:
    """Check what the destination holds; return the index where the conversion is complete."""
    if is_empty(destination):
        return None
    if not (destination / "config.yaml").is_file():
        raise InputError(f"{key}: not empty and not a pair store; give a new directory")
    there = configs.load(CoupleConfig, destination / "config.yaml")
    if differences := configs.differing(config.determining(), there.determining()):
        raise InputError(f"{key}: holds other pairs; {', '.join(differences)}; give a new directory")
    return format.read_index(destination) if (destination / "index.json").is_file() else None


def _convert(config: CoupleConfig, index: format.Index, source: AnyPath, destination: AnyPath) -> format.Index:
    """Write all files of the new store but those that `prepare_store` writes, the index last."""
    extras = [(source / "blocks.parquet", destination / "blocks.parquet")]
    for block in sorted({shard.block for shard in index.shards}):
        extras.append((block_file(source, block), block_file(destination, block)))
    for there, here in extras:
        if there.is_file() and not here.is_file():  # imported pairs have none
            write_atomically(here, there.read_bytes())
    if index.method == "semidiscrete":
        copy_potentials(source, destination)
    shards: list[format.Shard] = []
    with progress("converting", index.pairs) as show:
        for number, shard in enumerate(index.shards):
            shards.append(
                _finished_shard(destination, number)
                or _convert_shard(index, source, destination, number, shard, config.output.payload)
            )
            show(sum(s.pairs for s in shards), f"{number + 1}/{len(index.shards)} shards")
    converted = format.Index(
        **{
            **vars(index),
            "config_hash": configs.digest(config.determining()),
            "payload": config.output.payload,
            "shards": tuple(shards),
        }
    )
    format.write_index(destination, converted)
    return converted


def _finished_shard(destination: AnyPath, number: int) -> format.Shard | None:
    """Read the sidecar of a shard that an interrupted conversion finished."""
    path = format.sidecar_path(destination, format.shard_name(number))
    if not path.is_file():
        return None
    shard = format.read_sidecar(path).shard
    return None if damage(destination, shard, content=False) else shard


def _convert_shard(
    index: format.Index, source: AnyPath, destination: AnyPath, number: int, shard: format.Shard, payload: str
) -> format.Shard:
    """Write one shard of the new store."""
    found = damage(source, shard)
    if found:
        raise InputError(f"{shard.name}: {found}; mend the store with the help of `flowpairs verify {source}`")
    sidecar = format.sidecar_path(source, shard.name)
    if not sidecar.is_file():
        raise InputError(f"{sidecar}: missing, or no plain file; mend the store with the help of `flowpairs verify`")
    old = format.read_sidecar(sidecar)
    records = _records(source, index, shard, payload)
    new = write_shard(destination, number, shard.block, records, old.first_noise_counter, old.report, payload)
    if new.shard.pairs != shard.pairs:
        raise InputError(f"{shard.name}: reads short; run `flowpairs verify {source}`")
    return new.shard


def _take_rows(config: CoupleConfig, index: format.Index, source: AnyPath, destination: AnyPath) -> None:
    """Bring the rows and features of the old store into the new one, or make the rows again where it has none."""
    for side in format.row_sides(index):
        there, here = (format.rows_directory(store, side) for store in (source, destination))
        if row_set.lost_files(here):
            if not row_set.lost_files(there):
                row_set.copy_set(there, here)
            elif format.needs_rows(config.output.payload, index.method):
                _make_rows(config, index, destination)
    for part in ("features", "source_features"):
        if (source / part / MAP).is_file() and row_set.lost_files(destination / part):
            (destination / part).mkdir(parents=True, exist_ok=True)
            copy_file(source / part / MAP, destination / part / MAP)
            if not row_set.lost_files(source / part):
                row_set.copy_set(source / part, destination / part)


def _make_rows(config: CoupleConfig, index: format.Index, destination: AnyPath) -> None:
    """Read the data again, as the coupling job did."""
    surveyed = survey_inputs(config)
    if uses_ray(config.cluster):
        from flowpairs.pipeline.cluster.connect import connect

        connect()
    inputs = read_inputs(config, surveyed, destination)
    origin = None if inputs.source is None else inputs.source.fingerprint
    if inputs.target.fingerprint != index.data_fingerprint or origin != index.source_fingerprint:
        raise InputError(f"data.path={config.data.path!r}: not the data of this store; mend the path in config.yaml")
    save_inputs(inputs, destination)


def _records(directory: AnyPath, index: format.Index, shard: format.Shard, payload: str) -> Iterator[Record]:
    """Yield a shard's pairs, cut into records of the new payload's size."""
    names = ["data_ids", *(["x0"] if payload == "full" else []), *([] if payload == "ids" else ["x1"])]
    names += ["label"] if index.num_classes and payload != "ids" else []
    names += ["weight"] if index.weighted else []
    names += ["source_ids"] if index.two_sided else []
    decoder, parts, positions, seeds, span = Decoder(directory, index), [], [], [], None
    for key, fields in samples(directory / "shards" / shard.name):
        meta = read_meta(fields)
        seeds.append(meta.get("seed"))
        span = tuple(meta["span"]) if index.times else None  # as it was written: the same throughout a shard
        lost = seeds[-1] is None and not index.two_sided
        if payload != "full" and lost:
            raise InputError(
                f"payload={payload!r}: x0 of {shard.name} is no noise with a counter; only full can hold it"
            )
        try:
            parts.append(decoder.decode(fields, names if seeds[-1] is None else [*names, "rows"]))
        except (ValueError, KeyError, OSError) as error:
            raise InputError(f"{shard.name}: record {key!r}: {error}; run `flowpairs verify {directory}`") from error
        positions.append(int(key.rpartition("r")[2]))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    step = format.pairs_per_record(index.shape, payload)
    for start in range(0, shard.pairs, step):
        part = {name: values[start : start + step] for name, values in arrays.items()}
        yield Record(
            first_row=positions[0] + start,
            x0=part.get("x0"),
            x1=part.get("x1"),
            data_ids=part["data_ids"],
            labels=part.get("label"),
            seed=seeds[0],
            rows=part.get("rows"),
            weights=part.get("weight"),
            source_ids=part.get("source_ids"),
            span=span,
        )
