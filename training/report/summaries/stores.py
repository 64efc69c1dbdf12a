"""The parts of a pair store that the report shows: its index, the reports of its blocks, its pairs and its plan."""

import dataclasses
import tarfile
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.config import CoupleConfig, load, read_yaml
from flowpairs.pipeline.store import potential_files
from flowpairs.pipeline.store.block_reports import read_blocks
from flowpairs.pipeline.store.format import Index, read_index
from flowpairs.pipeline.store.potential_files import Potentials
from flowpairs.pipeline.store.records import Decoder, samples
from flowpairs.training.report.summaries.pair_statistics import PairStatistics, read_pair_statistics
from flowpairs.training.report.summaries.plan_statistics import SharpnessCurve, partners_by_row, sharpness_curve

PAIRS_SHOWN = 12


@dataclass(frozen=True)
class BlockSummary:
    """A row of blocks.parquet: one coupling problem and its solution."""

    block: int
    method: str
    n: int
    m: int
    eps: float | None
    rel_eps: float | None
    sharpness: float | None  # this and the next three are None for pairs that no coupling was computed for
    partners: float | None
    source_error: float | None
    target_error: float | None
    cost_independent: float
    cost_coupled: float
    passes: int
    converged: bool
    seconds: float
    plan_error: float | None = None  # estimated
    relabelled: int | None = None  # pairs changed to use every datum equally often; semi-discrete couplings only
    errors: list[float] | None = None  # of the target marginal, pass by pass
    regions: int | None = None  # that were coupled apart; this and the next two of blocks that were cut alone
    loss_bound: float | None = None  # on what the cut costs, in units of cost_coupled
    loss_error: float | None = None  # its standard error
    device: str | None = None
    torch: str | None = None
    flowpairs: str | None = None
    commit: str | None = None
    date: str | None = None


@dataclass(frozen=True)
class PairSamples:
    """The first pairs of a store."""

    x0: Float[np.ndarray, "k ..."]
    x1: Float[np.ndarray, "k ..."]
    data_ids: list[int]
    labels: list[Any] | None


@dataclass(frozen=True)
class StoreSummary:
    """A pair store; parts that it does not have are None."""

    name: str
    path: AnyPath
    index: Index
    blocks: list[BlockSummary] | None
    pairs: PairSamples
    config: str | None
    coupling: dict[str, Any]  # what the config says of the coupling
    potentials: Potentials | None  # for a semi-discrete coupling
    statistics: PairStatistics
    partners: Float64[np.ndarray, " rows"] | None  # effective number of partners of some source rows
    curve: SharpnessCurve | None


def read_store(path: AnyPath, name: str) -> StoreSummary:
    """Read a pair store's index, the reports of its blocks, its pairs and its plan."""
    index, config = read_index(path), path / "config.yaml"
    blocks, statistics = _read_blocks(path), read_pair_statistics(path, index)
    job = _job(config) if index.method != "imported" else None
    first_eps = next((block.eps for block in blocks or [] if block.block == 0), None)
    rel_eps = [block.rel_eps for block in blocks or [] if block.rel_eps is not None]
    return StoreSummary(
        name,
        path,
        index,
        blocks,
        _read_pairs(path, index),
        config.read_bytes().decode(errors="replace") if config.is_file() else None,
        _read_coupling(config),
        potential_files.load_potentials(path) if index.method == "semidiscrete" else None,
        statistics,
        None if job is None else partners_by_row(path, index, job, first_eps),
        None if job is None else sharpness_curve(statistics, job.coupling, median(rel_eps) if rel_eps else None),
    )


def _job(config: AnyPath) -> CoupleConfig | None:
    """Read the config of the job that made a store; None where this version finds none that it knows."""
    try:
        return load(CoupleConfig, config) if config.is_file() else None
    except InputError:
        return None


def _read_coupling(config: AnyPath) -> dict[str, Any]:
    """Read a config's part about the coupling; empty where there is none, or nothing that looks like one."""
    found = read_yaml(config).get("coupling") if config.is_file() else None
    return found if isinstance(found, dict) else {}


def _read_blocks(directory: AnyPath) -> list[BlockSummary] | None:
    """Read the reports of the blocks; None if there are none."""
    if not (directory / "blocks.parquet").is_file():
        return None
    names = {field.name for field in dataclasses.fields(BlockSummary)}
    rows = [{name: value for name, value in row.items() if name in names} for row in read_blocks(directory)]
    try:
        return [BlockSummary(**row) for row in rows]
    except TypeError as error:
        path = directory / "blocks.parquet"
        raise InputError(f"{path}: not the blocks' reports of a pair store ({error}); couple again") from error


def _read_pairs(directory: AnyPath, index: Index) -> PairSamples:
    """Read the first pairs of the first shard; for potentials without shards, make their first pairs."""
    if not index.shards:
        from flowpairs.training.pairs import online

        store = online.SemidiscreteStore(directory, index)
        x0, ids = store.pairs(0, PAIRS_SHOWN)
        return PairSamples(x0, store.data(ids), ids.tolist(), store.labels(ids).tolist() if index.num_classes else None)
    path = directory / "shards" / index.shards[0].name
    names = ("x0", "x1", "data_ids", *(["label"] if index.num_classes else []))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    try:
        decoder = Decoder(directory, index)
        for _, fields in samples(path):
            for name, array in decoder.decode(fields, names).items():
                parts[name].append(array)
            if sum(map(len, parts["data_ids"])) >= PAIRS_SHOWN:
                break
        if not parts["data_ids"]:
            raise ValueError("no record in it")
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a shard of pairs ({error!r}); run `flowpairs verify`") from error
    first = {name: np.concatenate(part)[:PAIRS_SHOWN] for name, part in parts.items()}
    labels = first["label"].tolist() if "label" in first else None
    return PairSamples(first["x0"], first["x1"], first["data_ids"].tolist(), labels)
