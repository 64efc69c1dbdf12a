"""The pair store's format: names, the index and the sidecars, without any tar bytes.

    DIR/config.yaml              resolved config
    DIR/rows/                    the data set in parts, with labels, weights and times (pipeline/data/rows/row_set.py)
    DIR/features/                mean and principal directions that the cost saw, and features of every data id
    DIR/source_rows/             the source's data set, where that is another one; source_features/ in the same manner
    DIR/shards/pairs-000000.tar  WebDataset; records of k pairs, each field [k, ...]
    DIR/shards/pairs-000000.json sidecar: what the shard holds and the report of its block
    DIR/potentials/b000000.npy   g of each block's target rows, float64
    DIR/potentials/g.npy         g of every data id, where one potential serves all blocks (semi-discrete)
    DIR/blocks.parquet           one row per block, written with the index
    DIR/outline.json             while the job runs: the future index without the shards' bytes and hashes
    DIR/index.json               written last, atomically: only then is the store complete

A shard counts only when its sidecar exists, since the sidecar is renamed into place after the tar is on disk.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path, refuse_special

FORMAT_VERSION = 2
OUTLINE = "outline.json"
AT_ONCE = 32  # sidecars that are read from a URL at the same time
RECORD_BYTES = 2**20  # a record holds as many pairs as fit in about this many bytes
MOST_BYTES = 2**50  # of a shard
MOST_CLASSES = 2**24

# The cost in the words of an index; a cost of the user's own goes by its name.
COSTS = {"dot": "-<x0, x1>", "sqeuclidean": "|x0 - x1|^2", "geodesic": "-4 t log of the heat kernel"}
CONVENTION = (
    "cost C = {cost} on the features; eps in units of C; potentials f, g without the marginals: "
    "P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)"
)
IMPORTED = "pairs made elsewhere, as a table had them"
REFLOW = "x1 is where a trained flow leads x0"


Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Shard:
    """One tar of pairs, as the index lists it."""

    name: Annotated[str, Field(pattern=r"^pairs-\d{6,}\.tar$")]  # "pairs-000012.tar": no path leads out of shards/
    block: Count
    pairs: Size
    records: Size
    bytes: Size
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Sidecar:
    """Content of `pairs-000012.json`: the shard, the start of its noise, its range of data ids, its block's report."""

    shard: Shard
    first_noise_counter: Count | None  # global source row of the first pair; None where x0 is not this seed's noise
    data_ids: tuple[Count, Count]  # smallest and largest
    report: dict[str, Any]  # flowpairs.pipeline.ot's BlockReport, with seconds


@dataclass(frozen=True)
class Index:
    """The content of `index.json`: everything a reader needs to know before it opens a shard."""

    config_hash: str
    data_fingerprint: str
    pairs: Count  # 0: only potentials
    shape: tuple[Size, ...]  # of one x0 and one x1, channels first for images
    num_classes: Count  # 0: no labels
    payload: Literal["full", "seeded", "ids"]  # see records.py
    method: str
    convention: str  # which cost, which eps and which potentials, in words
    shards: tuple[Shard, ...]
    class_names: tuple[str, ...] = ()  # by class id; empty where classes have none
    weighted: bool = False  # every pair has a weight
    source_fingerprint: str | None = None  # of the data that x0 is; None: x0 is noise
    times: tuple[float, ...] = ()  # time points of a chain, whose pairs have spans; empty where there is no chain
    format_version: int = FORMAT_VERSION

    @property
    def two_sided(self) -> bool:
        """Whether x0 is data with ids rather than noise."""
        return self.source_fingerprint is not None

    @property
    def cost_name(self) -> str:
        """Name of the costs in the blocks' reports: squared distances, unless the store's cost is another."""
        distances = [CONVENTION.format(cost=COSTS[cost]) for cost in ("dot", "sqeuclidean")]
        return "mean squared distance" if self.convention in (*distances, IMPORTED, REFLOW) else "mean cost"


@dataclass(frozen=True)
class Outline:
    """What the index will say, for readers that read shards while the job still writes.

    Attributes:
        index: index without shards; the shards' bytes and hashes are in the sidecars.
        shards: block and number of pairs of every shard, by the shard's number.
    """

    index: Index
    shards: tuple[tuple[Count, Size], ...]


def shard_name(number: int) -> str:
    """Name a shard's tar by its number, as in `pairs-000012.tar`."""
    return f"pairs-{number:06d}.tar"


def record_key(block: int, row: int) -> str:
    """Name a record; zero-padded and without dots, since WebDataset takes what follows a dot for the field's name."""
    return f"b{block:06d}-r{row:09d}"


def needs_rows(payload: str, method: str) -> bool:
    """Return whether a store is of no use without its rows: ids and potentials alone mean nothing."""
    return payload == "ids" or method == "semidiscrete"


def rows_directory(directory: AnyPath, side: Literal["target", "source"] = "target") -> AnyPath:
    """Directory of a side's rows in a pair store; a source that is the same data set has none of its own."""
    return directory / ("rows" if side == "target" else "source_rows")


def row_sides(index: "Index") -> tuple[Literal["target", "source"], ...]:
    """List the sides that have rows of their own."""
    apart = index.source_fingerprint not in (None, index.data_fingerprint)
    return ("target", "source") if apart else ("target",)


def pairs_per_record(shape: tuple[int, ...], payload: str) -> int:
    """Count the pairs of a record of about 1 MiB: per pair, full holds two float32 arrays, seeded one, ids 12 bytes."""
    side = 4 * max(1, math.prod(shape))
    return max(1, RECORD_BYTES // {"full": 2 * side, "seeded": side, "ids": 12}[payload])


def write_index(directory: AnyPath, index: Index) -> None:
    """Write `index.json` and remove `outline.json`; call it when every shard is in place."""
    write_atomically(directory / "index.json", _to_json(dataclasses.asdict(index)))
    (directory / OUTLINE).unlink(missing_ok=True)


def write_outline(directory: AnyPath, outline: Outline) -> None:
    """Write `outline.json`, which `write_index` removes."""
    write_atomically(directory / OUTLINE, _to_json(dataclasses.asdict(outline)))


def has_outline(directory: str | AnyPath) -> bool:
    """Return whether `read_outline` finds something to read."""
    return any((as_path(directory) / name).is_file() for name in (OUTLINE, "index.json"))


def write_sidecar(directory: AnyPath, sidecar: Sidecar) -> None:
    """Write a shard's sidecar alongside it; call it when the tar has its final name."""
    write_atomically(sidecar_path(directory, sidecar.shard.name), _to_json(dataclasses.asdict(sidecar)))


def _why_no_index(directory: AnyPath) -> str:
    """Say what a directory without an index is, and what to do."""
    if (directory / "metrics.jsonl").is_file():
        return "since it is a training run; give the pair store that it was trained on"
    if not (directory / "config.yaml").is_file() and not (directory / "shards").is_dir():
        return "no config.yaml and no shards, so no coupling job ran here; give the output.dir of one"
    return "so its job has not finished; run the same `flowpairs couple` or `write` again to complete it"


def read_index(directory: str | AnyPath) -> Index:
    """Read `index.json`.

    Raises:
        InputError: no such directory, a store that is not complete, one of another format version, or counts that no
            store can have.
    """
    path = as_path(directory) / "index.json"
    if not as_path(directory).is_dir():
        raise InputError(f"pair store {str(directory)!r}: no such directory; make it with `flowpairs couple CONFIG`")
    if not path.is_file():
        raise InputError(f"pair store {str(directory)!r}: no index.json, {_why_no_index(as_path(directory))}")
    data, tree = _read_json(path)
    if tree.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version={tree.get('format_version')!r}, but this program reads {FORMAT_VERSION}; "
            "make the store again or install the matching version"
        )
    try:
        index = _adapter(Index).validate_json(data, strict=True)
    except ValidationError as error:
        raise InputError(f"{path}: not an index of a pair store ({_first(error)}); make the store again") from error
    return _possible(path, index)


def read_outline(directory: str | AnyPath) -> Outline:
    """Read what is known of a store, whether its job is running, dead or finished.

    Raises:
        InputError: no store, or one that no job of this version has begun.
    """
    root = as_path(directory)
    if not (root / "index.json").is_file():
        try:
            return _outline(root / OUTLINE)
        except FileNotFoundError:
            pass  # there is none, or the index has just replaced it
    index = read_index(directory)
    shards = tuple((shard.block, shard.pairs) for shard in index.shards)
    return Outline(dataclasses.replace(index, shards=()), shards)


def _outline(path: AnyPath) -> Outline:
    refuse_special(path)
    data = path.read_bytes()
    try:
        outline = _adapter(Outline).validate_json(data, strict=True)
    except ValidationError as error:
        remedy = "remove it and run the coupling job again"
        raise InputError(f"{path}: not the outline of a pair store ({_first(error)}); {remedy}") from error
    if outline.index.format_version != FORMAT_VERSION:
        raise InputError(f"{path}: format_version={outline.index.format_version}, this program reads {FORMAT_VERSION}")
    _possible(path, outline.index)
    return outline


def _possible(path: AnyPath, index: Index) -> Index:
    """Return an index whose counts are those of a store, so that memory may be taken for them, or refuse it."""
    if found := _impossible(index):
        raise InputError(f"{path}: {found}; make the store again")
    return index


def _impossible(index: Index) -> str | None:
    """Describe the first count of an index that no store can have; None where none is.

    A shard has at least four bytes a pair, or those of the arrays that its payload holds.
    """
    each = max(4, {"full": 8, "seeded": 4, "ids": 0}[index.payload] * math.prod(index.shape))
    for shard in index.shards:
        if shard.bytes > MOST_BYTES or shard.pairs * each > shard.bytes or shard.records > shard.pairs:
            return (
                f"{shard.name} is said to have {shard.pairs} pairs in {shard.records} records and {shard.bytes} bytes"
            )
    if index.num_classes > MOST_CLASSES:
        return f"{index.num_classes} classes are more than {MOST_CLASSES:,}"
    if 4 * math.prod(index.shape) > MOST_BYTES:
        return f"a datum of shape {list(index.shape)} is larger than any file"
    return None


def sidecar_path(directory: AnyPath, name: str) -> AnyPath:
    """Path of a shard's sidecar, by the name of the shard."""
    return directory / "shards" / f"{name.removesuffix('.tar')}.json"


def read_sidecar(path: AnyPath) -> Sidecar:
    """Read one sidecar.

    Raises:
        InputError: it is damaged or not a sidecar.
    """
    try:
        refuse_special(path)
        return _adapter(Sidecar).validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); remove it and run the job again") from error
    except ValidationError as error:
        remedy = "remove it and its tar, then couple again"
        raise InputError(f"{path}: not a shard's sidecar ({_first(error)}); {remedy}") from error


def read_sidecars(directory: AnyPath, names: Sequence[str]) -> list[Sidecar]:
    """Read the sidecars of shards, by the shards' names; at a URL many at a time, since each costs a round trip.

    Raises:
        InputError: one is missing, damaged or not a sidecar.
    """
    paths = [sidecar_path(directory, name) for name in names]
    if isinstance(directory, Path):
        return [read_sidecar(path) for path in paths]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(read_sidecar, paths))


@cache
def _adapter(kind: type) -> Any:
    """Build the validator of a kind once: that takes longer than to read a file, of which there may be 100,000."""
    return TypeAdapter(kind)


def _to_json(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, indent=1, sort_keys=True) + "\n").encode()


def _read_json(path: AnyPath) -> tuple[bytes, dict[str, Any]]:
    """Read a JSON file; return its bytes and the object that they hold."""
    try:
        refuse_special(path)
        data = path.read_bytes()
        tree = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); remove it and run the job again") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: not a JSON object; remove it and run the job again")
    return data, tree


def _first(error: ValidationError) -> str:
    """Format the first of pydantic's errors."""
    first = error.errors(include_url=False)[0]
    where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
    return f"{where}{first['msg'][0].lower()}{first['msg'][1:]}"
