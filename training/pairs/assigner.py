"""`Assigner`: assigns data to your own noise, by the potentials of a semi-discrete pair store."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.store.format import Index, read_index
from flowpairs.training.pairs.online import SemidiscreteStore


class Assigner:
    """The semi-discrete coupling of a pair store, as a function from noise to data.

    With features p(x) = (x - mean) @ basis and the potential g, noise x0 is assigned the datum j with the largest score
    g_j + <x0 @ basis, p(x_j)>; at eps > 0 the datum is drawn with probabilities proportional to exp(score / eps). For
    standard Gaussian noise the pairs (x0, x1) are draws from the coupling that g was solved for, as many as needed.

        assigner = Assigner("out/potentials")
        x0 = torch.randn(256, 3, 32, 32)
        x1, data_ids = assigner(x0)

    An assigner can be pickled and is safe under fork, so workers of a `DataLoader` may call it.

    Args:
        store: the directory or URL of a semi-discrete pair store, with or without pairs.
        device: the device that computes the scores.

    Raises:
        InputError: a ValueError: the store does not exist, or its potentials or data are missing or damaged.
    """

    def __init__(self, store: str | AnyPath, device: str | torch.device = "cpu") -> None:
        index = read_index(store)
        if index.method != "semidiscrete":
            raise InputError(
                f"pair store {str(store)!r}: of method {index.method}, which has no potentials; use its pairs"
            )
        self._open(store, index, str(device))
        _ = self._store.assigner  # so that missing or damaged files are found now

    def _open(self, store: str | AnyPath, index: Index, device: str) -> None:
        self._state = store, index, device
        self._store, self._device = SemidiscreteStore(as_path(store), index, device), torch.device(device)

    def __getstate__(self) -> tuple[Any, ...]:
        return self._state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._open(*state)

    @torch.no_grad()
    def __call__(
        self,
        x0: Float[Tensor, "b *shape"],
        labels: Tensor | None = None,
        *,
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "b *shape"], Int64[Tensor, " b"]]:
        """Assign a datum to each row of noise.

        Args:
            x0: standard Gaussian noise [b, *shape], in the shape of the data.
            labels: the class of each row, int64 [b], for potentials that depend on it (coupling.condition class, or
                extended by labels).
            z: the condition of each row [b, q], for potentials extended by a file of conditions
                (coupling.condition_file).
            generator: the source of the draws at eps > 0; None: torch's global generator.

        Returns:
            The data x1, float32 [b, *shape] on the device of x0, and their ids, int64 [b]; of N data, an id of N or
            more is the mirror image of the datum id - N.

        Raises:
            InputError: x0 has another shape or is not finite; conditions are missing, not needed, or unknown.
        """
        shape = self._store.index.shape
        if x0.shape[1:] != shape:
            raise InputError(f"x0: noise of shape {list(x0.shape[1:])}; the data have {list(shape)}")
        if not torch.isfinite(x0).all():
            raise InputError("x0: has NaN or Inf; give standard Gaussian noise")
        points, count = self._points(x0, labels, z), len(x0)
        u = torch.zeros(count, dtype=torch.float64)
        if self._store.potentials.eps > 0:
            where = "cpu" if generator is None else generator.device
            u = torch.rand(count, dtype=torch.float64, generator=generator, device=where)
        u, ids = u.to(self._device), torch.empty(count, dtype=torch.int64, device=self._device)
        for problem, (among, assignment) in self._store.assigner.parts.items():
            rows = self._rows(problem, count, labels).nonzero()[:, 0]
            if len(rows):
                partners = assignment.partners(points[rows], u[rows])
                ids[rows] = torch.from_numpy(among).to(self._device)[partners]
        x1 = np.ascontiguousarray(self._store.data(ids.cpu().numpy()))
        return torch.from_numpy(x1).to(x0.device), ids.to(x0.device)

    def labels(self, data_ids: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Look up the labels of data.

        Args:
            data_ids: the ids of the data, as a call returns them.

        Returns:
            The labels, int64 [b] on the device of the ids.

        Raises:
            InputError: the data have no labels.
        """
        if not self._store.index.num_classes:
            raise InputError("labels: the data of this store have none; couple with data.label")
        return torch.from_numpy(self._store.labels(data_ids.cpu().numpy())).to(data_ids.device)

    def _points(self, x0: Tensor, labels: Tensor | None, z: Tensor | None) -> Float64[Tensor, "b kq"]:
        """Compute the points that the cost sees: the features of the noise, followed by its conditions."""
        conditions, coupling = self._store.assigner.conditions, self._store.config.coupling
        needed = {"blind": None, "class": "labels", "extended": "z" if coupling.condition_file else "labels"}
        for name, given in (("labels", labels), ("z", z)):
            if given is None and needed[conditions.kind] == name:
                raise InputError(f"{name}: the potentials depend on it (coupling.condition={conditions.kind}); give it")
            if given is not None and needed[conditions.kind] != name:
                raise InputError(f"{name}: the potentials do not depend on it; leave it out")
            if given is not None and len(given) != len(x0):
                raise InputError(f"{name}: {len(given)} for {len(x0)} noises; give one each")
        basis = self._store.assigner.features.basis
        points = x0.flatten(1).to(self._device, torch.float64)
        if basis is not None:
            points = points @ torch.from_numpy(basis).to(self._device, torch.float64)
        if labels is not None:
            classes = (
                self._store.assigner.parts if conditions.labels is not None else range(self._store.index.num_classes)
            )
            unknown = labels[~torch.isin(labels, torch.tensor(list(classes), device=labels.device))]
            if len(unknown):
                raise InputError(f"labels: {int(unknown[0])} is none of the data's; give labels that occur among them")
        if conditions.rows is None:
            return points
        assert coupling.beta is not None
        if labels is not None:
            z = torch.nn.functional.one_hot(labels, self._store.index.num_classes)
        assert z is not None
        if z.shape[1:] != conditions.rows.shape[1:]:
            raise InputError(f"z: {z.shape[1]} numbers per noise; the data have {conditions.width}")
        scaled = coupling.beta**0.5 * z.to(self._device, torch.float32)  # float32, as the data's own conditions
        return torch.cat([points, scaled.double()], 1)

    def _rows(self, problem: int, count: int, labels: Tensor | None) -> Bool[Tensor, " b"]:
        """Mark the rows of noise of one problem: all of them, or its class if classes are solved separately."""
        if self._store.assigner.conditions.labels is None or labels is None:
            return torch.ones(count, dtype=torch.bool, device=self._device)
        return (labels == problem).to(self._device)
