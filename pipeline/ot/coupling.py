"""Couplings: potentials or a sparse plan, a report, and partners drawn from P(. | i), without an n x m matrix."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.backends.protocol import TORCH, Backend, Timed
from flowpairs.pipeline.ot.partners import balance, barycentre, inverse_cdf
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.ordered_sums import add_by_index
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team
from flowpairs.pipeline.ot.tiles.tiling import Workers


@dataclass(frozen=True)
class BlockReport:
    """The properties of a coupling and how it was found.

    Marginal errors are L1 distances between a marginal of P and its target, measured over all entries. `plan_error`
    estimates the L1 distance, twice the total variation, between P and the plan at this eps whose marginals are right;
    where a part of the mass is hard to move it is many times the marginal error. Costs are the mean per
    pair of |x0 - x1|^2 in feature space, or of the user's cost function, under the product of the marginals and under
    the coupling. `sharpness` is E = 2 H(P) / (H(a) + H(b)) - 1, H in nats: 0 a permutation, 1 independent. `partners`
    and `partners_of_target` are the geometric mean numbers of partners of a source and of a target row,
    exp(H(P) - H(a)) and exp(H(P) - H(b)): both are n^E for n = m and uniform weights.
    """

    method: str  # "sinkhorn", "exact" or "independent"
    n: int
    m: int
    eps: float | None  # in units of the cost; None where the method has none
    rel_eps: float | None  # eps / std(C)
    sharpness: float
    partners: float
    partners_of_target: float
    source_error: float
    target_error: float
    plan_error: float
    cost_independent: float
    cost_coupled: float
    passes: int  # over n x m entries
    converged: bool
    seconds: float
    mass: float = 1.0  # of the whole plan; other than 1 where marginals are relaxed
    errors: list[float] = field(default_factory=list)  # L1, of the target marginal, after each pass


class Coupling(ABC):
    """A coupling P of a block's source and target rows."""

    problem: Problem
    report: BlockReport
    g: Float[Tensor, " m"] | None

    @property
    def pass_seconds(self) -> float:
        """Return the seconds so far of its solve and its draws that went into passes over the n x m entries."""
        return 0.0

    @abstractmethod
    def draw(self, u: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Draw one partner per source row, by the inverse distribution function of P(. | i).

        Args:
            u: uniforms in [0, 1), float64 [n], one per source row.

        Returns: target row numbers [n].
        """

    @abstractmethod
    def draw_balanced(self, u: Float[Tensor, " n"], order: Int[Tensor, " m"]) -> Int[Tensor, " n"]:
        """Draw one partner per source row, with each target row used n b_j times, rounded up or down.

        Args:
            u: uniforms in [0, 1), float64 [n], one per source row.
            order: random permutation of the target rows, which decides between them where nothing else does.

        Returns: target row numbers [n].
        """

    @abstractmethod
    def argmax(self) -> Int[Tensor, " n"]:
        """Find the most likely partner of each source row, the first where several are [n]."""

    @abstractmethod
    def barycentric(self, values: Float[Tensor, "m q"]) -> Float[Tensor, "n q"]:
        """Compute the mean of the target rows' `values` under P(. | i), for each source row."""

    @abstractmethod
    def chosen(self, rows: Int[Tensor, " k"]) -> "Coupling":
        """Restrict P(. | i) to some source rows of positive weight, which may repeat, to draw for each of these."""

    @abstractmethod
    def swapped(self) -> "Coupling":
        """Swap the sides of the plan: draws are from P(. | j), source rows for target rows of positive weight."""


class EntropicCoupling(Coupling):
    """The coupling P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps), by potentials that do not contain the marginals.

    f is the soft-min of g, so the source marginal holds by construction. Both are float64, in units of the cost. The
    team that solved the coupling also draws from it together: each member calls with the same arguments and gets all
    partners.
    """

    g: Float[Tensor, " m"]

    def __init__(
        self,
        problem: Problem,
        f: Float[Tensor, " n"],
        g: Float[Tensor, " m"],
        report: BlockReport,
        team: Team = SINGLE,
        backend: Backend = TORCH,
    ) -> None:
        self.problem, self.f, self.g, self.report = problem, f, g, report
        self.team, self.backend = team, backend if isinstance(backend, Timed) else Timed(backend)

    @property
    def pass_seconds(self) -> float:
        """See `Coupling.pass_seconds`."""
        return self.backend.seconds

    def draw(self, u: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """See `Coupling.draw`."""
        with Workers(u.device):
            return self.backend.draw(self._logits(), u, self.team)

    def draw_balanced(self, u: Float[Tensor, " n"], order: Int[Tensor, " m"]) -> Int[Tensor, " n"]:
        """See `Coupling.draw_balanced`; a pair comes as often as P says, see `balance.balanced_draw`."""
        b = self.problem.weights()[1]
        return self.backend.time(balance.balanced_draw, self._logits(), b, u, order, self.team)

    def argmax(self) -> Int[Tensor, " n"]:
        """See `Coupling.argmax`."""
        return self.backend.argmax(self._logits(), self.team)

    def barycentric(self, values: Float[Tensor, "m q"]) -> Float[Tensor, "n q"]:
        """See `Coupling.barycentric`."""
        return barycentre.of_logits(self._logits(), values)

    def chosen(self, rows: Int[Tensor, " k"]) -> "EntropicCoupling":
        """See `Coupling.chosen`."""
        return EntropicCoupling(self.problem.chosen(rows), self.f[rows], self.g, self.report, self.team, self.backend)

    def swapped(self) -> "EntropicCoupling":
        """See `Coupling.swapped`."""
        return EntropicCoupling(self.problem.swapped(), self.g, self.f, self.report, self.team, self.backend)

    def _logits(self) -> Logits:
        kernel = kernel_of(self.problem)
        return kernel.bound(kernel.gamma(self.g, self.problem.eps), self.problem.eps)


class SparseCoupling(Coupling):
    """An exact plan, a vertex of the transport polytope: at most n + m - 1 entries, stored by rows.

    g is the dual of the constraints on the target, None for a swapped plan. In the plan as solved, a source row of zero
    weight has the partner that the dual prefers; in a swapped plan such rows have none.
    """

    def __init__(
        self,
        problem: Problem,
        starts: Int[Tensor, " rows"],
        partners: Int[Tensor, " k"],
        mass: Float[Tensor, " k"],
        g: Float[Tensor, " m"] | None,
        report: BlockReport,
    ) -> None:
        self.problem, self.g, self.report = problem, g, report
        self.starts, self.partners, self.mass = starts, partners, mass

    def draw(self, u: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """See `Coupling.draw`."""
        return inverse_cdf.from_rows(self.starts, self.partners, self.mass, u)

    def draw_balanced(self, u: Float[Tensor, " n"], order: Int[Tensor, " m"]) -> Int[Tensor, " n"]:
        """See `Coupling.draw_balanced`; it is the cheapest such assignment, whatever `u`."""
        room = balance.capacities(self.problem.weights()[1], self.problem.n, order)
        return balance.cheapest(self.problem, room)

    def argmax(self) -> Int[Tensor, " n"]:
        """See `Coupling.argmax`."""
        rows = self._rows()
        order = self.mass.argsort(descending=True, stable=True)
        order = order[rows[order].argsort(stable=True)]  # by row, and within a row by decreasing mass
        return self.partners[order[self.starts[:-1]]]

    def barycentric(self, values: Float[Tensor, "m q"]) -> Float[Tensor, "n q"]:
        """See `Coupling.barycentric`."""
        rows, mass = self._rows(), self.mass.double()
        total = add_by_index(mass.new_zeros(self.problem.n), rows, mass)
        weighted = values.double()[self.partners] * (mass / total[rows])[:, None]
        sums = weighted.new_zeros(self.problem.n, values.shape[1])
        return add_by_index(sums, rows, weighted).to(values.dtype)

    def _rows(self) -> Int[Tensor, " k"]:
        """Return the source row of each entry."""
        lengths = self.starts[1:] - self.starts[:-1]
        return torch.arange(self.problem.n, device=self.starts.device).repeat_interleave(lengths)

    def chosen(self, rows: Int[Tensor, " k"]) -> "SparseCoupling":
        """See `Coupling.chosen`."""
        lengths = (self.starts[1:] - self.starts[:-1])[rows]
        starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        entries = torch.arange(int(starts[-1]), device=rows.device)
        entries += (self.starts[rows] - starts[:-1]).repeat_interleave(lengths)
        problem = self.problem.chosen(rows)
        return SparseCoupling(problem, starts, self.partners[entries], self.mass[entries], self.g, self.report)

    def swapped(self) -> "SparseCoupling":
        """See `Coupling.swapped`."""
        m = self.problem.m
        sources = self._rows()
        real = self.problem.weights()[0][sources] > 0  # a row of zero weight has an entry that is not part of the plan
        partners, sources, mass = self.partners[real], sources[real], self.mass[real]
        order = partners.argsort(stable=True)
        starts = torch.searchsorted(partners[order], torch.arange(m + 1, device=order.device))
        problem = self.problem.swapped()
        return SparseCoupling(problem, starts, sources[order], mass[order], None, self.report)


class IndependentCoupling(Coupling):
    """The independent coupling P = a b^T."""

    g = None

    def __init__(self, problem: Problem, report: BlockReport) -> None:
        self.problem, self.report = problem, report

    def draw(self, u: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """See `Coupling.draw`."""
        b = self.problem.weights()[1]
        starts = torch.tensor([0, len(b)], device=b.device)
        return inverse_cdf.from_rows(starts, torch.arange(len(b), device=b.device), b, u)

    def draw_balanced(self, u: Float[Tensor, " n"], order: Int[Tensor, " m"]) -> Int[Tensor, " n"]:
        """See `Coupling.draw_balanced`; it is a random arrangement, by the ranks of `u`."""
        room = balance.capacities(self.problem.weights()[1], self.problem.n, order)
        partners = torch.empty_like(u, dtype=torch.int64)
        partners[u.argsort(stable=True)] = torch.arange(len(room), device=room.device).repeat_interleave(room)
        return partners

    def argmax(self) -> Int[Tensor, " n"]:
        """See `Coupling.argmax`."""
        return self.problem.weights()[1].argmax().repeat(self.problem.n)

    def barycentric(self, values: Float[Tensor, "m q"]) -> Float[Tensor, "n q"]:
        """See `Coupling.barycentric`."""
        mean = self.problem.weights()[1] @ values.double()
        return mean.to(values.dtype).repeat(self.problem.n, 1)

    def chosen(self, rows: Int[Tensor, " k"]) -> "IndependentCoupling":
        """See `Coupling.chosen`."""
        return IndependentCoupling(self.problem.chosen(rows), self.report)

    def swapped(self) -> "IndependentCoupling":
        """See `Coupling.swapped`."""
        return IndependentCoupling(self.problem.swapped(), self.report)
