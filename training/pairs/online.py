"""Batches of fresh noise, matched inside the training job by the potentials of a semi-discrete coupling: no shards.

A step's global batch are the next source rows of the coupling's seed: row r has the noise, the condition and the
partner that the coupling job gives it, so batches are the pairs that its shards would hold, and never end.
"""

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.blocks import features, noise
from flowpairs.pipeline.blocks.conditions import read_conditions
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.data.spec import Target
from flowpairs.pipeline.solve.assignment import RowAssigner
from flowpairs.pipeline.store import potential_files
from flowpairs.pipeline.store.features_file import load_features
from flowpairs.pipeline.store.format import Index
from flowpairs.pipeline.store.records import Decoder
from flowpairs.training.pairs.loader import Batch, BatchPart, Loader, State


class OnlineLoader(Loader):
    """See `Loader`.

    Args:
        directory: of a semi-discrete pair store, with or without pairs.
        index: what `read_index` returned for it.
        part: of the global batch.
        labels: whether to give labels.
        state: of an earlier loader over the same store and batch.
        device: where to match.
        pin: put batches in pinned memory, for CUDA.

    Raises:
        InputError: from `next`, where potentials or data are missing or damaged.
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
    ) -> None:
        super().__init__(part, 0 if state is None else state["position"])
        self._store, self._labels, self._pin = SemidiscreteStore(as_path(directory), index, device), labels, pin
        self._thread.start()

    def state(self) -> State:
        """See `Loader.state`; the position counts batches."""
        return {"lanes": self._part.lanes, "epoch": 0, "position": self._consumed}

    def _groups(self) -> Iterator[list[Batch]]:
        rows, step = self._part.batch // self._part.world, self._consumed
        while True:
            x0, ids = self._store.pairs(step * self._part.batch + self._part.rank * rows, rows)
            arrays = {"x0": x0, "x1": self._store.data(ids)}
            if self._labels:
                arrays["label"] = self._store.labels(ids)
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            yield [Batch(**{name: t.pin_memory() if self._pin else t for name, t in tensors.items()})]
            step += 1


class SemidiscreteStore:
    """What a semi-discrete pair store knows besides pairs: its data, and who is matched with them.

    Args:
        directory, index: of the store.
        device: where to match.

    Raises:
        InputError: from its methods, where something is missing or damaged.
    """

    def __init__(self, directory: AnyPath, index: Index, device: str = "cpu") -> None:
        self.directory, self.index, self.device = directory, index, device
        self._decoder = Decoder(directory, index)

    @cached_property
    def config(self) -> CoupleConfig:
        """Of the coupling job."""
        return load(CoupleConfig, self.directory / "config.yaml")

    @cached_property
    def ids(self) -> int:
        """Data ids, mirror images included."""
        return len(self._read("data")) * (2 if self.config.data.flips else 1)

    def data(self, ids: np.ndarray) -> np.ndarray:
        """The data of some ids, mirrored where an id says so."""
        return features.gather(self._read("data"), ids)

    def labels(self, ids: np.ndarray) -> np.ndarray:
        """Their labels."""
        return self._read("labels")[ids % len(self._read("data"))]

    def pairs(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Noise [count, ...] and data ids [count] of source rows `first` to `first + count`."""
        x0 = noise.gaussian(self.matcher.seed, first, count, math.prod(self.index.shape))
        return x0.reshape(count, *self.index.shape), self.matcher.assign(first, x0, None).ids

    @cached_property
    def matcher(self) -> RowAssigner:
        """Who matches source rows with the data."""
        config, index, x = self.config, self.index, np.asarray(self._read("data"))
        labels = self._read("labels") if index.num_classes else None
        given = read_conditions(config.coupling, Target(x, labels, index.num_classes, index.data_fingerprint))
        fitted = load_features(self.directory)
        of_data = fitted.of_data(x, flips=config.data.flips)
        return RowAssigner(
            config.source.seed, fitted, of_data, given, potential_files.load_potentials(self.directory), self.device
        )

    def _read(self, name: str) -> np.ndarray:
        try:
            return getattr(self._decoder, name)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.directory / name}.npy: cannot be read ({error}); couple into a new directory"
            ) from error
