"""A coupling of regions: within each its own, between them nothing."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.coupling import BlockReport, Coupling
from flowpairs.pipeline.ot.problem import Problem


@dataclass(frozen=True)
class RegionReport(BlockReport):
    """The properties of a coupling of regions.

    Errors, costs and sharpness are those of the whole plan, `plan_error` estimates its distance from the plan whose
    regions are coupled without error, and `passes` is the largest number over the entries of a region. `loss_bound` is
    how much `cost_coupled` exceeds that of the plan of the whole problem at the same eps, at the most, in the same
    units, estimated from a sample of the source rows with standard error `loss_error` (see
    `flowpairs.pipeline.ot.regions.loss_bound`).
    """

    regions: int = 1
    loss_bound: float = 0.0
    loss_error: float = 0.0


class CoupledRegion(NamedTuple):
    """A region that is coupled: its rows and columns among those of the problem, and their coupling."""

    rows: Int[Tensor, " r"]
    columns: Int[Tensor, " c"]
    coupling: Coupling


class RegionCoupling(Coupling):
    """The coupling of a problem whose source and target rows lie in regions, each coupled apart.

    Args:
        problem: the whole problem.
        parts: the regions, which hold every source row and every target row once.
        report: report of the whole.
    """

    g = None  # no potential of the whole problem makes this plan

    def __init__(self, problem: Problem, parts: list[CoupledRegion], report: BlockReport) -> None:
        self.problem, self.parts, self.report = problem, parts, report

    @property
    def pass_seconds(self) -> float:
        """See `Coupling.pass_seconds`."""
        return sum(part.coupling.pass_seconds for part in self.parts)

    def draw(self, u: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """See `Coupling.draw`."""
        return self._whole([part.coupling.draw(u[part.rows]) for part in self.parts])

    def draw_balanced(self, u: Float[Tensor, " n"], order: Int[Tensor, " m"]) -> Int[Tensor, " n"]:
        """See `Coupling.draw_balanced`."""
        position = torch.empty_like(order)
        position[order] = torch.arange(len(order), device=order.device)
        drawn = [part.coupling.draw_balanced(u[part.rows], position[part.columns].argsort()) for part in self.parts]
        return self._whole(drawn)

    def argmax(self) -> Int[Tensor, " n"]:
        """See `Coupling.argmax`."""
        return self._whole([part.coupling.argmax() for part in self.parts])

    def barycentric(self, values: Float[Tensor, "m q"]) -> Float[Tensor, "n q"]:
        """See `Coupling.barycentric`."""
        means = values.new_empty(self.problem.n, values.shape[1])
        for part in self.parts:
            means[part.rows] = part.coupling.barycentric(values[part.columns])
        return means

    def chosen(self, rows: Int[Tensor, " k"]) -> "RegionCoupling":
        """See `Coupling.chosen`."""
        region, position = torch.empty(2, self.problem.n, dtype=torch.int64, device=rows.device)
        for number, part in enumerate(self.parts):
            region[part.rows], position[part.rows] = number, torch.arange(len(part.rows), device=rows.device)
        parts = []
        for number, part in enumerate(self.parts):
            asked = (region[rows] == number).nonzero()[:, 0]
            if len(asked):
                parts.append(CoupledRegion(asked, part.columns, part.coupling.chosen(position[rows[asked]])))
        return RegionCoupling(self.problem.chosen(rows), parts, self.report)

    def swapped(self) -> "RegionCoupling":
        """See `Coupling.swapped`."""
        parts = [CoupledRegion(part.columns, part.rows, part.coupling.swapped()) for part in self.parts]
        return RegionCoupling(self.problem.swapped(), parts, self.report)

    def _whole(self, drawn: list[Int[Tensor, " r"]]) -> Int[Tensor, " n"]:
        """Put together what was drawn in the regions, by numbers among all target rows."""
        partners = torch.empty(self.problem.n, dtype=torch.int64, device=self.problem.x0.device)
        for part, numbers in zip(self.parts, drawn, strict=True):
            partners[part.rows] = part.columns[numbers]
        return partners
