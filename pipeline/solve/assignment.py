"""Assignment under a solved semi-discrete coupling: finds the datum of any source row from the row's number.

The coupling job assigns the rows of its blocks; a training job's loader assigns those of its batches. The partner of a
row is a function of the row's number alone, since its noise, uniform and condition are, and assignments are exact.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.conditions import Conditions
from flowpairs.pipeline.blocks.features import Features
from flowpairs.pipeline.blocks.source import weights_of
from flowpairs.pipeline.solve.potentials import extended
from flowpairs.pipeline.store.potential_files import Potentials

SAMPLE = 512  # rows from which the entropy is estimated
PROJECTED = 4096  # rows whose features are computed at a time


@dataclass(frozen=True)
class Assigned:
    """Source rows with their partners.

    Attributes:
        ids: data ids, one per row.
        x: features of the rows, without conditions.
        changed: number of partners that were exchanged to use every datum equally often.
    """

    ids: Int64[np.ndarray, " n"]
    x: Float32[np.ndarray, "n k"]
    changed: int = 0


class RowAssigner:
    """Assigns data to source rows.

    Args:
        seed: seed of the source.
        features: map into the space of the cost.
        data_features: features of every data id, without conditions.
        conditions: conditions of the coupling.
        potentials: solved potentials of the coupling.
        device: "cpu" or "cuda", where to compute.
    """

    def __init__(
        self,
        seed: int,
        features: Features,
        data_features: Float32[np.ndarray, "ids k"],
        conditions: Conditions,
        potentials: Potentials,
        device: str,
    ) -> None:
        import torch

        from flowpairs.pipeline.ot.semidiscrete.assign import Assignment

        self.seed, self.features, self.conditions = seed, features, conditions
        y, self.count = extended(data_features, conditions), len(data_features)
        self.parts = {}
        for problem in conditions.problems():
            ids = conditions.ids(problem, self.count)
            g, weights = torch.from_numpy(potentials.g[ids]), weights_of(conditions.weights, ids)
            b = None if weights is None else torch.from_numpy(weights)
            self.parts[problem] = ids, Assignment(torch.from_numpy(y[ids]), g, potentials.eps, b, device=device)

    def assign(self, first: int, x0: Float32[np.ndarray, "n D"], order: Int64[np.ndarray, " ids"] | None) -> Assigned:
        """Find the partners of source rows `first` to `first + n`.

        Args:
            first: global number of the first row.
            x0: noise of these rows, flattened.
            order: random order of the data ids, to use all of them as often as their weights say: where those are no
                whole numbers, ids early in this order are used once more than others. None leaves the partners as they
                are.
        """
        import torch

        from flowpairs.pipeline.ot.partners.balance import capacities, relabel

        exact = self._features(first, x0)
        u = torch.from_numpy(noise.uniforms(self.seed, noise.Stream.DRAW, first, len(x0)))
        ids, changed = np.empty(len(x0), np.int64), 0
        for problem, (among, assignment) in self.parts.items():
            rows = self._rows(problem, first, len(x0))
            x = torch.from_numpy(exact[rows])
            partners = assignment.partners(x, u[torch.from_numpy(rows)])
            if order is not None and len(rows):
                positions = torch.from_numpy(np.searchsorted(among, order[np.isin(order, among)]))
                room = capacities(assignment.b.cpu(), len(rows), positions)
                partners, moved = relabel(assignment, x, partners.cpu(), room)
                changed += moved
            ids[rows] = among[partners.cpu().numpy()]
        return Assigned(ids, exact[:, : self.features.dim].astype(np.float32), changed)

    def partners(self, first: int, count: int) -> float:
        """Estimate the geometric mean number of partners per source row from some of the rows; it is 1 at eps = 0."""
        some = min(count, SAMPLE)
        exact = self._features(first, noise.gaussian(self.seed, first, some, len(self.features.mean)))
        nats = 0.0
        for problem, (_, assignment) in self.parts.items():
            rows = self._rows(problem, first, some)
            nats += assignment.nats(_tensor(exact[rows])) if len(rows) else 0.0
        return float(np.exp(nats / some))

    def _features(self, first: int, x0: Float32[np.ndarray, "n D"]) -> Float64[np.ndarray, "n kq"]:
        parts = [self.features.exactly(x0[low : low + PROJECTED]) for low in range(0, len(x0), PROJECTED)]
        exact, rows = np.concatenate(parts), self.conditions.rows
        if rows is None:
            return exact
        return np.concatenate([exact, rows[self.conditions.lenders(self.seed, first, len(x0))]], 1)

    def _rows(self, problem: int, first: int, count: int) -> Int64[np.ndarray, " r"]:
        """Find which of the rows belong to a problem."""
        if self.conditions.labels is None:
            return np.arange(count)
        lenders = self.conditions.lenders(self.seed, first, count)
        return np.flatnonzero(self.conditions.labels[lenders] == problem)


def assignment_report(
    assigner: RowAssigner, potentials: Potentials, first: int, assigned: Assigned, coupled: dict[str, Any]
) -> dict:
    """Build a block's report in the form of `flowpairs.pipeline.ot.BlockReport`.

    Args:
        assigner: assigner of the coupling.
        potentials: solved potentials of the coupling.
        first: global number of the block's first row.
        assigned: rows of the block and their partners.
        coupled: costs of the pairs as they are, and the block's sizes (see
            `flowpairs.pipeline.blocks.imported_pairs.imported_report`).
    """
    partners = assigner.partners(first, len(assigned.ids))
    return {
        **coupled,
        "method": "semidiscrete",
        "m": assigner.count,
        "eps": potentials.eps,
        "rel_eps": potentials.rel_eps,
        "sharpness": float(np.log(partners) / np.log(max(assigner.count, 2))),
        "partners": partners,
        "chi2": potentials.chi2,
        "relabelled": assigned.changed,
        "passes": 1,
    }


def _tensor(values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(values)
