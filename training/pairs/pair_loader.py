"""`PairLoader`: exact epochs of shuffled batches from a pair store, for your own training loop."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed
import torch.utils.data

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader_state import (
    State,
    check_form,
    check_owner,
    store_fingerprint,
    whole_number,
)
from flowpairs.training.pairs.reading.order import Order, arcs_for
from flowpairs.training.pairs.reading.read_ahead import ReadAhead
from flowpairs.training.pairs.reading.shard_batches import Steps, Tensors, shard_batches
from flowpairs.training.pairs.reading.shards import FIELDS, ShardReader, choose_fields


class PairLoader:
    """A loader of shuffled batches of the pairs in a store; each iteration is one epoch.

    An epoch returns every pair once, in an order drawn from (seed, epoch) that is the same for any number of ranks up
    to 8. Two remainders are left out: fewer pairs than the order has arcs (at most 7 with up to 8 ranks), which change
    from epoch to epoch, and a last batch with fewer pairs than ranks. One thread reads batches ahead and ends when the
    loader is deleted or closed; use a `PairLoader` in place of a `DataLoader`, not inside one.

    A batch is a dict of tensors with the b pairs of the global batch that belong to this rank:

        x0, x1     float32 [b, *shape]
        label      int64 [b]; if the store has labels
        data_id    int64 [b]; the ids of x1
        source_id  int64 [b]; the ids of x0, if x0 is data
        weight     float32 [b]; if the pairs have weights
        span       float32 [b, 2]; for a chain over time, the times of x0 and x1, in [0, 1]

    Args:
        store: the directory or URL of a complete pair store.
        batch_size: the number of pairs per batch over all ranks together; a multiple of the number of ranks.
        rank: the rank of this process; None: the rank in torch.distributed if that is initialised, else 0.
        world: the number of processes; None: the world size of torch.distributed if that is initialised, else 1. Give
            both `rank` and `world` or neither.
        seed: the seed of the order, at least 0 and below 2^63.
        fields: the names of the tensors to read; None: all that the store has.
        drop_last: whether to leave out the last batch of an epoch if it is smaller than the others.
        pin_memory: whether to put batches in pinned memory, for CUDA.

    Raises:
        InputError: a ValueError: an argument is out of range, or there is no complete store; and while iterating, a
            shard is missing or damaged.
    """

    def __init__(
        self,
        store: str | AnyPath,
        batch_size: int,
        *,
        rank: int | None = None,
        world: int | None = None,
        seed: int = 0,
        fields: Sequence[str] | None = None,
        drop_last: bool = False,
        pin_memory: bool = False,
    ) -> None:
        index = read_index(store)
        if not index.pairs:
            raise InputError(f"pair store {str(store)!r}: potentials without pairs; use flowpairs.Assigner")
        self.batch_size, self.seed = whole_number("batch_size", batch_size, 1), whole_number("seed", seed, 0)
        if batch_size > index.pairs:
            raise InputError(f"batch_size={batch_size}: more than the {index.pairs} pairs of the store; lower it")
        if (rank is None) != (world is None):
            raise InputError(f"rank={rank}, world={world}: give both, or neither to take torch.distributed's")
        self._given: tuple[int, int] | None = None
        if rank is not None and world is not None:
            self._given = whole_number("rank", rank, 0), whole_number("world", world, 1)
            if rank >= world:
                raise InputError(f"rank={rank}: ranks count from 0, so with world={world} give at most {world - 1}")
        self.drop_last, self._pin, self._names = drop_last, pin_memory, choose_fields(index, fields)
        self._counts = [shard.pairs for shard in index.shards]
        self._reader = ShardReader(as_path(store), index, [FIELDS[name] for name in self._names], by_id=None)
        self._own = {"seed": self.seed, "pairs": sum(self._counts), "store": store_fingerprint(index)}
        self._arcs: int | None = None  # set by a loaded state or by the first batch
        self._epoch, self._position = 0, 0  # where the next batch begins, in pairs per arc
        self._goes_on = False  # whether the next iteration continues in mid-epoch
        self._turn = 0  # number of the iteration that may return batches
        self._ahead: ReadAhead | None = None
        self._ahead_at: tuple[BatchPart, int, int] | None = None  # part, epoch and position of its next batch
        self._plan()

    def __len__(self) -> int:
        """Return the number of batches per epoch, which is the same on every rank."""
        return self._plan()[2].per_epoch

    def __iter__(self) -> Iterator[Tensors]:
        """Iterate over the next epoch or, just after `load_state_dict`, over the rest of an epoch.

        Leaving an iteration early ends its epoch.

        Raises:
            InputError: it is called inside a worker of a `DataLoader`, which would read all batches once per worker.
        """
        if torch.utils.data.get_worker_info() is not None:
            raise InputError(
                "PairLoader in a DataLoader's worker: every worker would read all batches again; iterate over the "
                "PairLoader in place of the DataLoader, or give the DataLoader a PairDataset"
            )
        return self._batches()

    def _batches(self) -> Iterator[Tensors]:
        self._refuse_fork()
        part, order, steps = self._plan()
        rest = order.per_arc - self._position
        if self._position and not (self._goes_on and rest >= (steps.least or 0)):
            self._epoch, self._position = self._epoch + 1, 0
        epoch = self._epoch
        if self._ahead is None or self._ahead_at != (part, epoch, self._position):
            self.close()
            taken = epoch * order.per_arc + self._position
            self._ahead = ReadAhead(shard_batches(self._reader, order, part, steps, taken, self._pin))
        self._arcs, self._goes_on, self._turn = part.arcs, False, self._turn + 1
        ahead, turn = self._ahead, self._turn
        while self._epoch == epoch:
            self._refuse_fork()
            tensors = next(ahead)
            taken = steps.at(epoch * order.per_arc + self._position)[1]
            self._epoch, self._position = divmod(taken, order.per_arc)
            self._ahead_at = (part, self._epoch, self._position)
            yield {name: tensors[FIELDS[name]] for name in self._names}
            if turn != self._turn:
                raise InputError(
                    "PairLoader: closed, or another iteration has begun; make a second loader for that one"
                )

    def state_dict(self) -> State:
        """Return where the next batch begins, after those returned so far.

        Returns:
            Integers by name and a fingerprint of the store, the same on every rank. They are valid for another number
            of ranks, and for another batch size that is a multiple of the number of arcs: the position counts pairs.
        """
        return {"arcs": self._plan()[0].arcs, "epoch": self._epoch, "position": self._position, **self._own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where another loader over the same store was; the next iteration is the rest of its epoch.

        Args:
            state: the result of `state_dict` of that loader.

        Raises:
            InputError: it is not such a state, or it does not fit the seed, the store or the batch size.
        """
        state = check_form(state, ("arcs", "epoch", "position", *self._own))
        check_owner(state, self._own)
        if self.batch_size % state["arcs"]:
            arcs = state["arcs"]
            raise InputError(
                f"batch_size={self.batch_size}: the state's order has {arcs} arcs; give a multiple of {arcs}"
            )
        if state["position"] >= (per_arc := sum(self._counts) // state["arcs"]):
            raise InputError(
                f"loader state: position={state['position']} is beyond an epoch, which ends at {per_arc}; start from "
                "the beginning"
            )
        self._arcs, self._epoch, self._position = state["arcs"], state["epoch"], state["position"]
        self._goes_on, self._turn = True, self._turn + 1

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of an epoch.

        Args:
            epoch: the number of the epoch, from 0.

        Raises:
            InputError: `epoch` is not a whole number of at least 0.
        """
        self._epoch, self._position = whole_number("epoch", epoch, 0), 0
        self._goes_on, self._turn = False, self._turn + 1

    @property
    def sampler(self) -> "_Start":
        """The object whose `set_epoch` Lightning calls at the start of every epoch."""
        return _Start(self)

    def close(self) -> None:
        """Stop reading ahead; the next iteration starts it again."""
        if self._ahead is not None:
            self._ahead.close()
            self._turn += 1  # an iterator still in use would wait forever
        self._ahead = self._ahead_at = None

    def __enter__(self) -> "PairLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "PairLoader reads in a thread and cannot be pickled; use flowpairs.PairDataset in other processes"
        )

    def __getitem__(self, which: Any) -> Any:
        raise TypeError(
            "PairLoader is no data set; iterate over it in place of the DataLoader, or give the DataLoader a "
            "flowpairs.PairDataset"
        )

    def _refuse_fork(self) -> None:
        """Refuse to go on in a forked child, also with another iteration: parent and child would read the same."""
        if self._ahead is not None:
            self._ahead.refuse_fork()

    def _plan(self) -> tuple[BatchPart, Order, Steps]:
        """Compute this rank's part of the batch, the order of the pairs, and the division of epochs into batches.

        This is computed at each use, since torch.distributed may be initialised after the loader is made.
        """
        rank, world = self._given or (0, 1)
        if self._given is None and torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if self.batch_size % world:
            upper = -(-self.batch_size // world) * world
            raise InputError(
                f"batch_size={self.batch_size}: counts the pairs of all ranks, and world={world} does not divide it; "
                f"give {upper}"
            )
        arcs = self._arcs or arcs_for(self.batch_size, world)
        part, order = BatchPart(self.batch_size, rank, world, arcs), Order(self._counts, arcs, self.seed)
        least = part.per_arc if self.drop_last else -(-world // arcs)
        return part, order, Steps(order.per_arc, part.per_arc, least)


class _Start:
    """A setter of the first epoch, for Lightning, of a loader that was neither read nor restored.

    Lightning calls `loader.sampler.set_epoch` before every epoch. For a run that resumes at the start of an epoch, this
    is the only way to learn its number; for a run that resumes in mid-epoch, the restored state of the loader counts.
    Later epochs follow without being set.
    """

    def __init__(self, loader: PairLoader) -> None:
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        if self._loader._turn == 0:
            self._loader.set_epoch(epoch)
