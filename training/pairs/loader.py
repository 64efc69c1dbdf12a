"""The endless loaders of a training run: batches for one worker, read ahead, resumable at any batch.

A state says where the next batch begins: the epoch, and the position in it, which is the same in every arc (see
training/pairs/reading/order.py); and what that belongs to (training/pairs/loader_state.py). For your own training loop
there is `PairLoader` (training/pairs/pair_loader.py), which is made of the same parts.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.store.format import Index, Outline
from flowpairs.training.pairs.batch import Batch, BatchPart, BatchRows, StoredBatch
from flowpairs.training.pairs.loader_state import State, check_form, check_owner, store_fingerprint, whole_number
from flowpairs.training.pairs.reading.order import Order
from flowpairs.training.pairs.reading.read_ahead import ReadAhead
from flowpairs.training.pairs.reading.shard_batches import Steps, Tensors, shard_batches
from flowpairs.training.pairs.reading.shard_source import GrowingStore, shard_groups
from flowpairs.training.pairs.reading.shards import ShardReader

TENSORS = "x0", "x1", "label", "weight", "span"  # of a `Batch`

Draw = Callable[[int, BatchRows], Tensors]  # the random numbers of a step, counted from 0, for rows of its batch


class Loader(ABC):
    """An endless iterator over a worker's batches in a training run; leaving its context stops its thread.

    Args:
        part: this worker's part of the global batch.
        consumed: the number of batches that earlier loaders of the run returned.
        groups: the tensors of the batches that follow those, in groups.
        draw: called in the loader's thread for the random numbers of every batch; None: batches have none.
        pin: whether to put those numbers in pinned memory, for CUDA.
        stop: the event that ends the waiting inside `groups`; None: it never waits.
    """

    def __init__(
        self,
        part: BatchPart,
        consumed: int,
        groups: Iterator[list[Tensors]],
        draw: Draw | None = None,
        pin: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self._part, self._consumed = part, consumed
        self._ahead = ReadAhead(_batches(groups, part.rows, consumed, draw, pin), stop)

    @abstractmethod
    def state(self) -> State:
        """Return where the next batch starts: the same for every worker, and valid for any number of workers."""

    @property
    def waited(self) -> float:
        """The seconds that `next` has waited for batches."""
        return self._ahead.waited

    def __iter__(self) -> Iterator[Batch | StoredBatch]:
        return self

    def __next__(self) -> Batch | StoredBatch:
        batch = next(self._ahead)
        self._consumed += 1
        return batch

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self._ahead.close()


def _batches(
    groups: Iterator[list[Tensors]], rows: BatchRows, step: int, draw: Draw | None, pin: bool
) -> Iterator[list[Batch | StoredBatch]]:
    """Make batches of tensors and of the random numbers of their steps; `step` is that of the first."""
    for group in groups:
        made: list[Batch | StoredBatch] = []
        for tensors in group:
            drawn = draw(step, rows) if draw else {}
            if pin:
                drawn = {name: numbers.pin_memory() for name, numbers in drawn.items()}
            if "stored_x1" in tensors:
                made.append(StoredBatch(rows, tensors, drawn))
            else:
                fields = {name: tensors[name] for name in TENSORS if name in tensors}
                made.append(Batch(rows=rows, drawn=drawn, **fields))
            step += 1
        yield made


class ShardLoader(Loader):
    """A loader of the pairs in shards, in exact shuffled epochs; a batch may extend from one epoch into the next.

    Args:
        directory: the directory or URL of the pair store.
        index: the store's index, from `read_index`.
        part: this worker's part of the global batch.
        seed: the seed of the order.
        labels: whether to read labels.
        state: the state of an earlier loader over the same store with the same arcs, batch and seed; None: the
            beginning.
        pin: whether to put batches in pinned memory, for CUDA.
        outline: the outline of a store that is still being written; the first epoch then follows the order of its
            shards. None for a complete store.
        patience: the seconds to wait for a shard of such a store; None: without limit.
        on_device: whether batches of a store of ids are made on the device that trains, from ids, noise rows and stored
            rows, to the same bits; the host then copies each row once.
        draw: see `Loader`.

    Raises:
        InputError: there are fewer pairs than arcs, or the state belongs to another loader; and from `next`: a shard is
            missing or damaged, or does not appear in time, or the process was forked.
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
        *,
        on_device: bool = False,
        draw: Draw | None = None,
    ) -> None:
        counts = [shard.pairs for shard in index.shards] if outline is None else [n for _, n in outline.shards]
        seed = whole_number("seed", seed, 0)
        self.order = Order(counts, part.arcs, seed, () if outline is None else shard_groups(outline))
        if not self.order.per_arc:
            raise InputError(f"arcs={part.arcs}: more than the {sum(counts)} pairs of the store; give fewer")
        store = store_fingerprint(index, outline)
        self._own = {"arcs": part.arcs, "batch": part.batch, "seed": seed, "store": store}
        given = {"label": labels, "weight": index.weighted, "span": bool(index.times)}
        fields = ("x0", "x1", *(name for name, wanted in given.items() if wanted))
        stop = threading.Event()
        source = None if outline is None else GrowingStore(as_path(directory), patience or math.inf, stop)
        reader = ShardReader(directory, index, fields, source, by_id=on_device or None)
        steps = Steps(self.order.per_arc, part.per_arc)
        consumed = 0 if state is None else self._consumed_at(state, steps)
        batches = shard_batches(reader, self.order, part, steps, consumed * steps.rows, pin, stored=on_device)
        super().__init__(part, consumed, batches, draw, pin, stop)

    def state(self) -> State:
        """See `Loader.state`."""
        epoch, position = divmod(self._consumed * self._part.per_arc, self.order.per_arc)
        return self._own | {"epoch": epoch, "position": position}

    def _consumed_at(self, state: State, steps: Steps) -> int:
        """Count the batches before a state, after a check that it belongs to this loader and to a batch of it."""
        check_owner(check_form(state), self._own)
        epoch, position = state["epoch"], state["position"]
        if position >= steps.per_arc:
            raise InputError(
                f"loader state: position={position} is beyond an epoch, which ends at {steps.per_arc}; start from the "
                "beginning"
            )
        consumed, inside = divmod(epoch * steps.per_arc + position, steps.rows)
        if inside:
            raise InputError(
                f"loader state: position={position} of epoch={epoch} is inside a batch, not where one of "
                f"batch={self._own['batch']} begins; start from the beginning"
            )
        return consumed
