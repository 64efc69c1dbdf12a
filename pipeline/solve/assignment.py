"""Assignment under a solved semi-discrete coupling: the datum of any source row, by the number of the row.

The coupling job assigns the rows of its blocks, a training job's loader those of its batches. The partner of a row is a
function of the row's number alone: its noise, its uniform and its condition are, and assignments are exact.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.conditions import Conditions
from flowpairs.pipeline.blocks.features import Features
from flowpairs.pipeline.solve.potentials import extended
from flowpairs.pipeline.store.potential_files import Potentials

SAMPLE = 512  # rows whose entropy stands for all
PROJECTED = 4096  # rows whose features are made at a time


@dataclass(frozen=True)
class Assigned:
    """Source rows with their partners.

    Attributes:
        ids: data ids, one a row.
        x: the rows' features, conditions not included, float32.
        changed: how many partners were exchanged to use every datum equally often.
    """

    ids: Int64[np.ndarray, " n"]
    x: Float32[np.ndarray, "n k"]
    changed: int = 0


class RowAssigner:
    """Assigns source rows with data.

    Args:
        seed: of the source.
        features: the map into the space of the cost.
        data_features: of every data id, conditions not included.
        conditions: of the coupling.
        potentials: of the coupling.
        device: where to compute.
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
            g = torch.from_numpy(potentials.g[ids])
            self.parts[problem] = ids, Assignment(torch.from_numpy(y[ids]), g, potentials.eps, device=device)

    def assign(self, first: int, x0: Float32[np.ndarray, "n D"], order: Int64[np.ndarray, " ids"] | None) -> Assigned:
        """Partners of source rows `first` to `first + n`.

        Args:
            first: global number of the first row.
            x0: their noise, flattened.
            order: a random order of the data ids, where they are all to be used equally often: of those that are one
                time short or over, the first in it are used once more. None leaves partners as they are.
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
                even = torch.full((len(among),), 1 / len(among), dtype=torch.float64)
                partners, moved = relabel(assignment, x, partners.cpu(), capacities(even, len(rows), positions))
                changed += moved
            ids[rows] = among[partners.cpu().numpy()]
        return Assigned(ids, exact[:, : self.features.dim].astype(np.float32), changed)

    def partners(self, first: int, count: int) -> float:
        """The geometric mean number of partners of source rows, from some of them: 1 at eps = 0."""
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
        """Which of the rows belong to a problem."""
        if self.conditions.labels is None:
            return np.arange(count)
        lenders = self.conditions.lenders(self.seed, first, count)
        return np.flatnonzero(self.conditions.labels[lenders] == problem)


def assignment_report(
    assigner: RowAssigner, potentials: Potentials, first: int, assigned: Assigned, coupled: dict[str, Any]
) -> dict:
    """A block's report, as `flowpairs.pipeline.ot.BlockReport` has it.

    Args:
        assigner, potentials: the coupling.
        first: the block's first row.
        assigned: its rows and partners.
        coupled: the costs of the pairs as they stand, and who they are (see
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
