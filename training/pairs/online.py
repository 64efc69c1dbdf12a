"""Batches of fresh noise, with data assigned inside the training job by the potentials of a semi-discrete coupling.

No shards are read. The global batch of a step is the next source rows of the coupling's seed: row r has the noise, the
condition and the partner that the coupling job gives it, so the batches are the pairs that shards would hold, without
end.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.conditions import read_conditions
from flowpairs.pipeline.blocks.feature_store import features_directory, load_map, open_features
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.data.rows.target import Target
from flowpairs.pipeline.solve.assignment import RowAssigner
from flowpairs.pipeline.store.format import Index
from flowpairs.pipeline.store.potential_files import Potentials, load_potentials
from flowpairs.pipeline.store.records import Decoder
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import Draw, Loader
from flowpairs.training.pairs.loader_state import State, check_form, check_owner, potentials_fingerprint
from flowpairs.training.pairs.reading.shard_batches import Tensors


class OnlineLoader(Loader):
    """A loader of fresh noise with assigned data; see `Loader`.

    Args:
        directory: the directory or URL of a semi-discrete pair store, with or without pairs.
        index: the store's index, from `read_index`.
        part: this worker's part of the global batch.
        labels: whether to include labels.
        state: the state of an earlier loader over the same store with the same batch size; None: the beginning.
        device: the device that assigns data to noise.
        pin: whether to put batches in pinned memory, for CUDA.
        draw: see `Loader`.

    Raises:
        InputError: the state belongs to another loader; and from `next`: potentials or data are missing or damaged, or
            the process was forked.
    """

    def __init__(
        self,
        directory: str | AnyPath,
        index: Index,
        part: BatchPart,
        labels: bool = False,
        state: State | None = None,
        device: str = "cpu",
        pin: bool = False,
        *,
        draw: Draw | None = None,
    ) -> None:
        self._store = store = SemidiscreteStore(as_path(directory), index, device)
        consumed = 0 if state is None else self._consumed_at(state, part)
        super().__init__(part, consumed, online_batches(store, part, consumed, labels, pin), draw, pin)

    def state(self) -> State:
        """See `Loader.state`; here the position counts batches."""
        return self._own(self._part) | {"position": self._consumed}

    def _own(self, part: BatchPart) -> State:
        seed, store = self._store.config.source.seed, self._store.fingerprint
        return {"arcs": part.arcs, "batch": part.batch, "epoch": 0, "seed": seed, "store": store}

    def _consumed_at(self, state: State, part: BatchPart) -> int:
        """Count the batches before a state, after a check that it belongs to this loader."""
        check_owner(check_form(state), self._own(part))
        most = noise.ROWS // part.batch
        if state["position"] >= most:
            raise InputError(
                f"loader state: position={state['position']} is beyond the noise of a seed, which has {most} batches; "
                "start from the beginning"
            )
        return state["position"]


def online_batches(
    store: "SemidiscreteStore", part: BatchPart, consumed: int, labels: bool = False, pin: bool = False
) -> Iterator[list[Tensors]]:
    """Yield one worker's batches without end, in lists of one; the arguments are those of `OnlineLoader`."""
    rows, step = part.rows, consumed
    while True:
        x0, ids = store.pairs(step * part.batch + rows.start, len(rows))
        arrays = {"x0": x0, "x1": store.data(ids)} | ({"label": store.labels(ids)} if labels else {})
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        yield [{name: tensor.pin_memory() if pin else tensor for name, tensor in tensors.items()}]
        step += 1


class SemidiscreteStore:
    """The data and the potentials of a semi-discrete pair store, which give the partner of any source row.

    Args:
        directory: the directory or URL of the store.
        index: the store's index, from `read_index`.
        device: the device that assigns data to noise.

    Raises:
        InputError: from the methods: a file is missing or damaged.
    """

    def __init__(self, directory: AnyPath, index: Index, device: str = "cpu") -> None:
        self.directory, self.index, self.device = directory, index, device
        self._decoder = Decoder(directory, index)

    @cached_property
    def config(self) -> CoupleConfig:
        """The config of the coupling job."""
        return load(CoupleConfig, self.directory / "config.yaml")

    @cached_property
    def ids(self) -> int:
        """The number of data ids, mirror images included."""
        return len(self._read("data")) * (2 if self.config.data.flips else 1)

    def data(self, ids: np.ndarray) -> np.ndarray:
        """Gather the data of some ids; ids of mirror images give the mirrored data."""
        rows = self._read("data")
        with self._reading("data"):
            return rows.read(ids)

    def labels(self, ids: np.ndarray) -> np.ndarray:
        """Look up the labels of some ids."""
        return self._read("labels")[ids % len(self._read("data"))]

    def pairs(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute the noise [count, ...] and the data ids [count] of source rows `first` to `first + count`."""
        x0 = noise.gaussian(self.assigner.seed, first, count, math.prod(self.index.shape))
        return x0.reshape(count, *self.index.shape), self.assigner.assign(first, x0, None).ids

    @cached_property
    def potentials(self) -> Potentials:
        """The potentials of the coupling."""
        return load_potentials(self.directory)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the coupling."""
        return potentials_fingerprint(self.index, self.potentials.g)

    @cached_property
    def assigner(self) -> RowAssigner:
        """The object that finds the partners of source rows."""
        config, index, rows = self.config, self.index, self._read("data")
        labels = self._read("labels") if index.num_classes else None
        weights = self._read("data_weights")
        if weights is None and config.data.weight is not None:
            raise InputError(f"{self.directory / 'rows' / 'weight.npy'}: missing; copy it too, or couple again")
        target = Target(rows, labels, index.num_classes, index.data_fingerprint, weights)
        given, where = read_conditions(config.coupling, target), features_directory(self.directory)
        fitted = load_map(where)
        with self._reading("features"):
            of_data = open_features(where, fitted, rows, flips=config.data.flips).whole()
        return RowAssigner(config.source.seed, fitted, of_data, given, self.potentials, self.device)

    def _read(self, name: str) -> Any:
        with self._reading(name):
            return getattr(self._decoder, name)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Refuse what is missing or damaged in one sentence."""
        try:
            yield
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.directory}: {name} cannot be read ({error}); run the same `flowpairs couple` again"
            ) from error
