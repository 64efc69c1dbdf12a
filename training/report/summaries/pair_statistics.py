"""What the pairs of a store have in common: how often data are used, how near the two sides are, and where they lie."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.base.paths import AnyPath
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.feature_store import MAP, features_directory, load_map
from flowpairs.pipeline.blocks.features import Features
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.store.format import Index, rows_directory
from flowpairs.training.pairs.dataset import PairDataset
from flowpairs.training.pairs.online import SemidiscreteStore

READ_BYTES = 2**28  # of shards that are read for the data they use
READ_PAIRS = 2**20
COMPARED = 2_048  # largest number of pairs whose two sides are compared
COMPARED_NUMBERS = 2**24  # and of their coordinates
PLANE_ROWS = 512  # that principal directions are found from
CLASSES = 40  # largest number of classes that are listed, the most frequent ones


@dataclass(frozen=True)
class ClassShare:
    """One class: its name, and its shares of the pairs and of the data."""

    name: str
    of_pairs: float
    of_data: float | None


@dataclass(frozen=True)
class PairStatistics:
    """Figures of the pairs of a store, or of evenly spaced shards of it.

    Attributes:
        read: the number of pairs whose data were counted.
        uses: by how often a datum occurs in them, the number of such data; those that do not occur are among them
            where the store knows its data.
        classes: the classes, the most frequent ones if there are many; empty without labels.
        x0: features of the source side of some pairs, in the space of the cost.
        x1: features of their target side.
        data_ids: the data of these pairs.
        exchanged: an order of these pairs; x0[i] with x1[exchanged[i]] are independent pairs.
    """

    read: int
    uses: dict[int, int]
    classes: list[ClassShare]
    x0: Float32[np.ndarray, "k d"]
    x1: Float32[np.ndarray, "k d"]
    data_ids: Int64[np.ndarray, " k"]
    exchanged: Int64[np.ndarray, " k"]

    @cached_property
    def distances(self) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """Squared distances of the two sides: of the pairs, and of independent pairs."""
        return _squared(self.x0, self.x1), _squared(self.x0, self.x1[self.exchanged])

    @cached_property
    def cosines(self) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """Cosines of the two sides, the data centred: of the pairs, and of independent pairs."""
        return _cosines(self.x0, self.x1), _cosines(self.x0, self.x1[self.exchanged])

    @cached_property
    def plane(self) -> tuple[Float64[np.ndarray, "k 2"], Float64[np.ndarray, "k 2"]] | None:
        """Both sides on the two principal directions of the data; the coordinates of data in the plane."""
        if self.x1.shape[1] < 2:
            return None
        x0, x1 = self.x0.astype(np.float64), self.x1.astype(np.float64)
        if x1.shape[1] == 2:
            return x0, x1
        some = x1[:PLANE_ROWS] - x1[:PLANE_ROWS].mean(0)
        _, _, rows = np.linalg.svd(some, full_matrices=False)
        if len(rows) < 2:
            return None
        largest = np.take_along_axis(rows[:2], np.abs(rows[:2]).argmax(1)[:, None], 1)
        directions = (rows[:2] * np.sign(largest)).T
        return x0 @ directions, x1 @ directions


def read_pair_statistics(directory: AnyPath, index: Index) -> PairStatistics:
    """Read the figures of a store's pairs; of potentials without pairs, those of the first pairs that they make.

    Args:
        directory: the pair store.
        index: the store's index.

    Raises:
        InputError: a shard is missing or damaged.
    """
    width = math.prod(index.shape)
    compared = max(2, min(COMPARED, COMPARED_NUMBERS // width))
    labels: np.ndarray | None = None
    if index.pairs:
        numbers, heads = _numbers(index, compared)
        counted = ["data_id", *(["label"] if index.num_classes else [])]
        found = PairDataset(directory, fields=counted)[numbers]
        ids, labels = found["data_id"].numpy(), found["label"].numpy() if index.num_classes else None
        sides = PairDataset(directory, fields=["x0", "x1", "data_id"])[heads]
        x0, x1, data_ids = sides["x0"].numpy(), sides["x1"].numpy(), sides["data_id"].numpy()
    else:
        store = SemidiscreteStore(directory, index)
        x0, data_ids = store.pairs(0, compared)
        x1, ids = store.data(data_ids), data_ids
        labels = store.labels(ids) if index.num_classes else None
    features = _features(directory, width)
    source, target = x0.reshape(len(x0), width), x1.reshape(len(x1), width)
    near = features.of_rows(source) if index.two_sided else features.exactly(source).astype(np.float32)
    exchanged = noise.permutation(0, noise.Stream.WINDOWS, len(x0))
    rows, labelled = _data(directory)
    return PairStatistics(
        read=len(ids),
        uses={} if index.method == "reflow" else _uses(ids, rows),  # whose pairs name noise rows, not data
        classes=_classes(index, labels, labelled),
        x0=near,
        x1=features.of_rows(target),
        data_ids=data_ids,
        exchanged=exchanged,
    )


def _numbers(index: Index, compared: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " k"]]:
    """Choose evenly spaced shards; return the numbers of their pairs, and `compared` numbers from their beginnings."""
    edges = np.cumsum([0, *(shard.pairs for shard in index.shards)])
    room = max(1, READ_BYTES * len(index.shards) // max(1, sum(shard.bytes for shard in index.shards)))
    chosen = np.unique(np.linspace(0, len(index.shards) - 1, min(room, len(index.shards))).astype(np.int64))
    each = -(-compared // len(chosen))
    numbers = np.concatenate([np.arange(edges[shard], edges[shard + 1]) for shard in chosen])[:READ_PAIRS]
    heads = [np.arange(edges[shard], min(edges[shard] + each, edges[shard + 1])) for shard in chosen]
    return numbers, np.concatenate(heads)[:compared]


def _features(directory: AnyPath, width: int) -> Features:
    """Read the map to the space of the cost; a store of pairs made elsewhere has none, and all coordinates count."""
    where = features_directory(directory)
    found = load_map(where) if (where / MAP).is_file() else None
    if found is None or len(found.mean) != width:
        return Features(np.zeros(width, np.float32), None)
    return found


def _data(directory: AnyPath) -> tuple[int | None, Int64[np.ndarray, " n"] | None]:
    """Count the store's rows and read their labels, where it has some."""
    where = rows_directory(directory)
    if not (where / row_set.MANIFEST).is_file():
        return None, None
    manifest = row_set.read_manifest(where)
    return manifest.rows, row_set.read_column(where, manifest, "label")


def _uses(ids: Int64[np.ndarray, " n"], rows: int | None) -> dict[int, int]:
    """Count the data that occur once, twice and so on, and not at all where the number of data is known."""
    times, data = np.unique(np.unique(ids, return_counts=True)[1], return_counts=True)
    uses = dict(zip(times.tolist(), data.tolist(), strict=True))
    if rows is None:
        return uses
    whole = 2 * rows if ids.max() >= rows else rows  # the ids of mirror images come after those of the data
    return {0: max(0, whole - sum(uses.values())), **uses}


def _classes(index: Index, labels: np.ndarray | None, labelled: np.ndarray | None) -> list[ClassShare]:
    """Compare how often each class occurs among the pairs and among the data."""
    if labels is None:
        return []
    classes, counts = np.unique(labels, return_counts=True)
    kept = np.sort(classes[np.argsort(-counts, kind="stable")[:CLASSES]])
    shares = dict(zip(classes.tolist(), (counts / len(labels)).tolist(), strict=True))
    return [
        ClassShare(
            index.class_names[number] if number < len(index.class_names) else str(number),
            shares[number],
            None if labelled is None else float((labelled == number).mean()),
        )
        for number in kept.tolist()
    ]


def _squared(x0: Float32[np.ndarray, "k d"], x1: Float32[np.ndarray, "k d"]) -> Float64[np.ndarray, " k"]:
    return np.square(x0.astype(np.float64) - x1).sum(1)


def _cosines(x0: Float32[np.ndarray, "k d"], x1: Float32[np.ndarray, "k d"]) -> Float64[np.ndarray, " k"]:
    a, b = x0.astype(np.float64), x1.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.where(lengths > 0, lengths, 1.0)
