"""A pair store as the report sees it: its index, its blocks' reports and its first pairs."""

import dataclasses
import io
import json
import tarfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.errors import InputError
from pipeline.store.format import Index, read_index

PAIRS_SHOWN = 12


@dataclass(frozen=True)
class Block:
    """A row of blocks.parquet: one coupling problem and what came of it."""

    block: int
    method: str
    n: int
    m: int
    eps: float | None
    rel_eps: float | None
    entropy: float
    partners: float
    source_error: float
    target_error: float
    cost_independent: float
    cost_coupled: float
    passes: int
    converged: bool
    seconds: float


@dataclass(frozen=True)
class Pairs:
    """The first pairs of a store."""

    x0: Float[np.ndarray, "k ..."]
    x1: Float[np.ndarray, "k ..."]
    data_ids: list[int]
    labels: list[Any] | None


@dataclass(frozen=True)
class Store:
    """One pair store."""

    name: str
    path: Path
    index: Index
    blocks: list[Block] | None
    pairs: Pairs | None  # only payload full holds both sides
    config: str | None


def read_store(path: Path, name: str) -> Store:
    """Read a pair store's index, its blocks' reports and its first pairs."""
    index, config = read_index(path), path / "config.yaml"
    return Store(
        name,
        path,
        index,
        _read_blocks(path / "blocks.parquet"),
        _read_pairs(path, index) if index.payload == "full" else None,
        config.read_text() if config.is_file() else None,
    )


def _read_blocks(path: Path) -> list[Block] | None:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    if not path.is_file():
        return None
    try:
        rows = pq.read_table(path, columns=[field.name for field in dataclasses.fields(Block)]).to_pylist()
        return [Block(**row) for row in rows]
    except (ArrowException, TypeError) as error:
        raise InputError(f"{path}: not the blocks' reports of a pair store ({error}); couple again") from error


def _read_pairs(directory: Path, index: Index) -> Pairs:
    """The first records, with tarfile and numpy alone: the format's promise is that this is enough."""
    path = directory / "shards" / index.shards[0].name
    x0: list[np.ndarray] = []
    x1: list[np.ndarray] = []
    data_ids: list[int] = []
    labels: list[Any] = []
    try:
        with tarfile.open(path) as tar:
            for _, members in groupby(tar, key=lambda member: member.name.partition(".")[0]):
                fields = {member.name.partition(".")[2]: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
                x0.extend(np.load(io.BytesIO(fields["x0.npy"])))
                x1.extend(np.load(io.BytesIO(fields["x1.npy"])))
                data_ids.extend(json.loads(fields["meta.json"])["data_ids"])
                if "label.npy" in fields:
                    labels.extend(np.load(io.BytesIO(fields["label.npy"])).tolist())
                if len(x0) >= PAIRS_SHOWN:
                    break
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a shard of pairs ({error!r}); run `flowpairs verify`") from error
    k = PAIRS_SHOWN
    return Pairs(np.stack(x0[:k]), np.stack(x1[:k]), data_ids[:k], labels[:k] or None)
