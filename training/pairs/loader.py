"""Batches of pairs for one worker, read ahead by one thread, resumable to the batch.

The state is three numbers: how many lanes there are (see training/pairs/order.py), the epoch, and how far every lane
has come in it.
"""

import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.store.format import Index, Outline
from flowpairs.training.pairs.order import Order
from flowpairs.training.pairs.shard_source import GrowingStore, shard_groups
from flowpairs.training.pairs.shards import ShardReader
from flowpairs.training.pairs.shuffle import ShuffledArc

READ_AHEAD = 8  # groups of batches
GROUP_BYTES = 2**20  # small batches are made several at once: a hand-over to the other thread costs more than one

State = dict[str, int]


@dataclass(frozen=True)
class Batch:
    """Some pairs; `label` where the loader was asked for labels, `weight` and `span` where the pairs have them."""

    x0: Float32[Tensor, "b *shape"]
    x1: Float32[Tensor, "b *shape"]
    label: Int64[Tensor, " b"] | None = None
    weight: Float32[Tensor, " b"] | None = None
    span: Float32[Tensor, "b 2"] | None = None  # of a chain over time: when x0 and x1 are, between 0 and 1

    def split(self, count: int) -> list["Batch"]:
        """The pairs in `count` parts of equal size."""
        rows = len(self.x0) // count
        fields = {name: field.split(rows) for name, field in vars(self).items() if field is not None}
        return [Batch(**dict(zip(fields, parts, strict=True))) for parts in zip(*fields.values(), strict=True)]

    def to(self, device: torch.device) -> "Batch":
        """On another device; asynchronous from pinned memory."""
        fields = {name: field for name, field in vars(self).items() if field is not None}
        return Batch(**{name: field.to(device, non_blocking=True) for name, field in fields.items()})


@dataclass(frozen=True)
class BatchPart:
    """One worker's part of every global batch: rows rank * batch / world on, for batch / world rows.

    Args:
        batch: global; a multiple of `lanes` and of `world`.
        rank: of this worker.
        world: number of workers.
        lanes: that the global batch is laid out from, batch / lanes rows of each, lane after lane.
    """

    batch: int
    rank: int = 0
    world: int = 1
    lanes: int = 1

    def __post_init__(self) -> None:
        assert self.batch % self.world == 0
        assert self.batch % self.lanes == 0
        assert 0 <= self.rank < self.world

    @property
    def per_lane(self) -> int:
        """Rows that every lane gives to a global batch."""
        return self.batch // self.lanes

    def split(self, count: int) -> list["BatchPart"]:
        """This worker's rows in `count` parts of equal size."""
        world = self.world * count
        return [BatchPart(self.batch, self.rank * count + k, world, self.lanes) for k in range(count)]

    def slices(self) -> dict[int, slice]:
        """Lane -> which of its `per_lane` rows are this worker's."""
        first = self.rank * self.batch // self.world
        last = first + self.batch // self.world
        out = {}
        for lane in range(first // self.per_lane, -(-last // self.per_lane)):
            left = lane * self.per_lane
            out[lane] = slice(max(first - left, 0), min(last - left, self.per_lane))
        return out


class Loader(ABC):
    """An endless iterator over a worker's batches, made ahead by one thread that a context manager stops.

    Args:
        part: of the global batch.
        consumed: batches that an earlier loader handed out.
    """

    def __init__(self, part: BatchPart, consumed: int) -> None:
        self.waited = 0.0  # seconds that `next` has waited for the thread
        self._part, self._consumed = part, consumed
        self._queue: queue.Queue[list[Batch] | BaseException] = queue.Queue(READ_AHEAD)
        self._group: list[Batch] = []  # what is left of the group that was taken from the queue
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, name="pair-loader", daemon=True)

    @abstractmethod
    def state(self) -> State:
        """Where the next batch starts: the same for every worker, and good for any number of them."""

    @abstractmethod
    def _groups(self) -> Iterator[list[Batch]]:
        """The batches from here on, some at a time; runs in the thread."""

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self._group:
            start = time.perf_counter()
            item = self._queue.get()
            self.waited += time.perf_counter() - start
            if isinstance(item, BaseException):
                self._queue.put(item)  # so that asking again raises again rather than waits for ever
                raise item
            self._group = item[::-1]
        self._consumed += 1
        return self._group.pop()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read_ahead(self) -> None:
        try:
            for group in self._groups():
                if not self._put(group):
                    return
        except BaseException as error:  # handed to the consumer
            self._put(error)

    def _put(self, item: list[Batch] | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


class PairLoader(Loader):
    """Batches of the pairs in shards; exact epochs, shuffled.

    Args:
        directory: of the pair store.
        index: what `read_index` returned for it.
        part: of the global batch.
        seed: of the order.
        labels: whether to read labels.
        state: of an earlier loader over the same store, batch, lanes and seed.
        pin: put batches in pinned memory, for CUDA.
        outline: of the store, where its shards are read as they come; the first epoch is in their order then.
        patience: seconds to wait for one of them; None: as long as it takes.

    Raises:
        InputError: from `next`, where a shard is missing or damaged, or does not come.
    """

    def __init__(
        self,
        directory: str | AnyPath,
        index: Index,
        part: BatchPart,
        seed: int,
        labels: bool = False,
        state: State | None = None,
        pin: bool = False,
        outline: Outline | None = None,
        patience: float | None = None,
    ) -> None:
        counts = [shard.pairs for shard in index.shards] if outline is None else [n for _, n in outline.shards]
        self.order = Order(counts, part.lanes, seed, () if outline is None else shard_groups(outline))
        assert self.order.per_lane > 0
        pairs = 0 if state is None else state["epoch"] * self.order.per_lane + state["position"]
        super().__init__(part, pairs // part.per_lane)
        self._pin = pin
        given = {"label": labels, "weight": index.weighted, "span": bool(index.times)}
        fields = ("x0", "x1", *(name for name, there in given.items() if there))
        shelf = None if outline is None else GrowingStore(as_path(directory), patience or math.inf, self._stop)
        self._reader = ShardReader(directory, index, fields, shelf)
        self._thread.start()

    def state(self) -> State:
        """See `Loader.state`."""
        epoch, position = divmod(self._consumed * self._part.per_lane, self.order.per_lane)
        return {"lanes": self._part.lanes, "epoch": epoch, "position": position}

    def _groups(self) -> Iterator[list[Batch]]:
        slices, per_lane = self._part.slices(), self._part.per_lane
        lanes = [ShuffledArc(self._reader, self.order, lane, self._consumed * per_lane) for lane in slices]
        shape, rows = self._reader.index.shape, self._part.batch // self._part.world
        shapes = {"x0": shape, "x1": shape, "span": (2,)}
        room = GROUP_BYTES // (8 * rows * math.prod(shape))
        while True:
            for lane in lanes:
                lane.renew()
            count = max(1, min(room, lanes[0].left // per_lane))
            # New memory for every group, since nobody knows how long a batch is held.
            group = {
                name: torch.empty(
                    (count, rows, *shapes.get(name, ())),
                    dtype=torch.int64 if name == "label" else torch.float32,
                    pin_memory=self._pin,
                )
                for name in self._reader.fields
            }
            arrays, filled = {name: tensor.numpy() for name, tensor in group.items()}, 0
            for lane, part in zip(lanes, slices.values(), strict=True):
                there = slice(filled, filled + part.stop - part.start)
                lane.take(count, per_lane, part, {name: array[:, there] for name, array in arrays.items()})
                filled = there.stop
            yield [Batch(**dict(zip(group, tensors, strict=True))) for tensors in zip(*group.values(), strict=True)]
