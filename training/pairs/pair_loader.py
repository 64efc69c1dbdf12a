"""`PairLoader`: exact epochs of shuffled batches out of a pair store, for a training loop of one's own."""

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed
import torch.utils.data

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import STATE, State, check_state
from flowpairs.training.pairs.reading.order import Order, arcs_for
from flowpairs.training.pairs.reading.read_ahead import ReadAhead
from flowpairs.training.pairs.reading.shard_batches import Steps, Tensors, shard_batches
from flowpairs.training.pairs.reading.shards import FIELDS, ShardReader, choose_fields


class PairLoader:
    """Batches of the pairs in a store; one iteration is one epoch, and the next iteration the next epoch.

    An epoch meets every pair once, in an order drawn from (seed, epoch) that does not depend on the number of ranks up
    to 8. Left out are a remainder of fewer pairs than arcs (at most 7 up to 8 ranks), different ones each epoch, and a
    last batch with fewer pairs than ranks. Batches are read ahead by one thread, which ends when the loader is dropped
    or closed; use it in place of a `DataLoader`, not inside one.

    A batch is a dict of tensors, of the b pairs that this rank has of the global batch:

        x0, x1     float32 [b, *shape]
        label      int64 [b]; where the store has labels
        data_id    int64 [b], of x1; source_id int64 [b], of x0; where x0 is data
        weight     float32 [b]; where pairs have weights
        span       float32 [b, 2]; of a chain over time, when x0 and x1 are, in [0, 1]

    Args:
        store: directory or URL of a complete pair store.
        batch_size: pairs of a batch over all ranks together; a multiple of their number.
        rank: of this process; None: torch.distributed's where that is initialised, else 0.
        world: number of processes; likewise, else 1. Give both or neither.
        seed: of the order, at least 0.
        fields: names of the tensors wanted; None: all that the store has.
        drop_last: leave out a last batch of an epoch that is smaller than the others.
        pin_memory: put batches in pinned memory, for CUDA.

    Raises:
        InputError: a ValueError; an argument out of range, no complete store there; and while iterating, a shard that
            is missing or damaged.
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
        self.batch_size, self.seed = _integer("batch_size", batch_size, 1), _integer("seed", seed, 0)
        if batch_size > index.pairs:
            raise InputError(f"batch_size={batch_size}: more than the {index.pairs} pairs of the store; lower it")
        if (rank is None) != (world is None):
            raise InputError(f"rank={rank}, world={world}: give both, or neither to take torch.distributed's")
        self._given: tuple[int, int] | None = None
        if rank is not None and world is not None:
            self._given = _integer("rank", rank, 0), _integer("world", world, 1)
            if rank >= world:
                raise InputError(f"rank={rank}: ranks count from 0, so with world={world} give at most {world - 1}")
        self.drop_last, self._pin, self._names = drop_last, pin_memory, choose_fields(index, fields)
        self._counts = [shard.pairs for shard in index.shards]
        self._reader = ShardReader(as_path(store), index, [FIELDS[name] for name in self._names])
        self._arcs: int | None = None  # of a state that was loaded, or of the first batch
        self._epoch, self._position = 0, 0  # where the next batch begins, in pairs of every arc
        self._goes_on = False  # whether the next iteration goes on in mid-epoch
        self._turn = 0  # of the iteration that batches belong to
        self._ahead: ReadAhead | None = None
        self._ahead_at: tuple[BatchPart, int, int] | None = None  # part, epoch and position of its next batch
        self._process = os.getpid()
        self._plan()

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return self._plan()[2].per_epoch

    def __iter__(self) -> Iterator[Tensors]:
        """Iterate over the next epoch, or just after `load_state_dict` over the rest of one.

        Leaving an iteration early ends its epoch.
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
            self._process = os.getpid()
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
        """Where the next batch begins, behind those handed out: integers, the same on every rank.

        Good for another number of ranks and another batch size, where the arcs divide it.
        """
        part, state = self._plan()[0], {"epoch": self._epoch, "position": self._position}
        return {"arcs": part.arcs, **state, "seed": self.seed, "pairs": sum(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where another loader over the same store was; the next iteration is the rest of its epoch.

        Raises:
            InputError: not such a state, or one of another seed, store or batch size.
        """
        state = check_state(state, (*STATE, "seed", "pairs"))
        for key, value in {"seed": self.seed, "pairs": sum(self._counts)}.items():
            if state[key] != value:
                raise InputError(f"loader state: {key}={state[key]}, this loader has {value}; give the same again")
        if self.batch_size % state["arcs"]:
            arcs = state["arcs"]
            raise InputError(
                f"batch_size={self.batch_size}: the state's order has {arcs} arcs; give a multiple of {arcs}"
            )
        if state["position"] >= sum(self._counts) // state["arcs"]:
            raise InputError(f"loader state: position={state['position']} is beyond an epoch; start from the beginning")
        self._arcs, self._epoch, self._position = state["arcs"], state["epoch"], state["position"]
        self._goes_on, self._turn = True, self._turn + 1

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of an epoch, from its beginning."""
        self._epoch, self._position = _integer("epoch", epoch, 0), 0
        self._goes_on, self._turn = False, self._turn + 1

    @property
    def sampler(self) -> "_Start":
        """What Lightning tells of the epoch that begins."""
        return _Start(self)

    def close(self) -> None:
        """Stop reading ahead; another iteration starts it again."""
        if self._ahead is not None and self._process == os.getpid():
            self._ahead.close()
            self._turn += 1  # what iterates still would wait for ever
        self._ahead = self._ahead_at = None

    def __enter__(self) -> "PairLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "PairLoader reads in a thread and cannot be pickled; use flowpairs.PairDataset in other processes"
        )

    def _refuse_fork(self) -> None:
        """Threads do not survive a fork: a child would wait for batches for ever."""
        if self._ahead is not None and self._process != os.getpid():
            raise InputError(
                "PairLoader: forked while it reads; make one in each process, or use flowpairs.PairDataset"
            )

    def _plan(self) -> tuple[BatchPart, Order, Steps]:
        """Which rows are this rank's, in which order, and how batches divide epochs.

        Asked anew each time, since torch.distributed may be initialised later than a loader is made.
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
    """Sets the first epoch of a loader that was neither read nor restored: all others follow by themselves.

    Lightning calls `loader.sampler.set_epoch` before every epoch. A run that goes on behind its last epoch is told so
    in no other way; one that goes on in mid-epoch has the loader's state restored, which knows better.
    """

    def __init__(self, loader: PairLoader) -> None:
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        if self._loader._turn == 0:
            self._loader.set_epoch(epoch)


def _integer(name: str, value: Any, least: int) -> int:
    """A whole number that a caller gave, numpy's included."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise InputError(f"{name}={value!r}: give a whole number of at least {least}")
    return number
