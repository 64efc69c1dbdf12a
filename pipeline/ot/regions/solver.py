"""The entropic coupling of a problem by regions: about 1 / count of the work and memory of the whole problem."""

import math
import time
from dataclasses import replace
from itertools import zip_longest

from flowpairs.pipeline.ot.backends.choose import BackendName
from flowpairs.pipeline.ot.coupling import BlockReport
from flowpairs.pipeline.ot.direct.independent import independent
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.regions.coupling import CoupledRegion, RegionCoupling, RegionReport
from flowpairs.pipeline.ot.regions.cutting import cut
from flowpairs.pipeline.ot.regions.loss_bound import bound_loss
from flowpairs.pipeline.ot.sinkhorn.solver import solve_sinkhorn
from flowpairs.pipeline.ot.tiles.tiling import Workers


def solve_in_regions(
    problem: Problem, count: int, *, tol: float = 1e-3, max_passes: int = 20_000, backend: BackendName = "auto"
) -> RegionCoupling:
    """Cut a problem into regions, couple each at the problem's eps, and bound what that costs.

    Args:
        problem: problem with as many source as target rows, uniform weights, and cost "dot" or "sqeuclidean".
        count: number of regions, each of at least two rows; 1 gives the plan of `solve_sinkhorn`.
        tol: as for `solve_sinkhorn`, of each region.
        max_passes: as for `solve_sinkhorn`, of each region.
        backend: as for `solve_sinkhorn`.

    Raises:
        InputError: another problem, too many regions, or what `solve_sinkhorn` refuses.
    """
    started = time.perf_counter()
    with Workers(problem.x0.device):
        problem = problem.measured()
        regions = cut(problem, count)
        coupled = [
            solve_sinkhorn(
                Problem(problem.x0[region.rows], problem.x1[region.columns], problem.eps, cost=problem.cost),
                tol=tol,
                max_passes=max_passes,
                backend=backend,
            )
            for region in regions
        ]
        bound = bound_loss(problem, regions, coupled)
    squares = 2.0 if problem.cost == "dot" else 1.0  # squared distances per unit of the cost
    shares = [len(region.rows) / problem.n for region in regions]
    report = _report(problem, shares, [part.report for part in coupled])
    report = replace(
        report,
        seconds=time.perf_counter() - started,
        loss_bound=squares * bound.value,
        loss_error=squares * bound.error,
    )
    parts = [CoupledRegion(*region, coupling) for region, coupling in zip(regions, coupled, strict=True)]
    return RegionCoupling(problem, parts, report)


def _report(problem: Problem, shares: list[float], reports: list[BlockReport]) -> RegionReport:
    """Put the regions' reports together, in which every row counts alike."""

    def mean(numbers: list[float]) -> float:
        return sum(share * number for share, number in zip(shares, numbers, strict=True))

    assert problem.cost_moments is not None
    partners = math.exp(mean([math.log(report.partners) for report in reports]))
    nats = math.log(problem.n)
    errors = list[list[float]]()
    for numbers in zip_longest(*(report.errors for report in reports)):
        before = errors[-1] if errors else [0.0] * len(numbers)
        errors.append([old if new is None else new for old, new in zip(before, numbers, strict=True)])
    return RegionReport(
        method="sinkhorn",
        n=problem.n,
        m=problem.m,
        eps=problem.eps,
        rel_eps=problem.eps / problem.cost_moments.std if problem.cost_moments.std > 0 else math.inf,
        sharpness=math.log(partners) / nats,
        partners=partners,
        partners_of_target=partners,
        source_error=mean([report.source_error for report in reports]),
        target_error=mean([report.target_error for report in reports]),
        plan_error=mean([report.plan_error for report in reports]),
        cost_independent=independent(problem).report.cost_independent,
        cost_coupled=mean([report.cost_coupled for report in reports]),
        passes=max(report.passes for report in reports),
        converged=all(report.converged for report in reports),
        seconds=0.0,
        errors=[mean(numbers) for numbers in errors],
        regions=len(reports),
    )
