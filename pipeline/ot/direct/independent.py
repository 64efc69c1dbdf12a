"""The independent coupling, the baseline of flow matching."""

import time

from flowpairs.pipeline.ot.coupling import BlockReport, IndependentCoupling
from flowpairs.pipeline.ot.problem import Problem, entropy
from flowpairs.pipeline.ot.sharpness import spread_of, transport_costs
from flowpairs.pipeline.ot.tiles.kernel import kernel_of


def independent(problem: Problem) -> IndependentCoupling:
    """Build P = a b^T, with the same report as any other coupling."""
    started = time.perf_counter()
    a, b = problem.weights()
    spread = spread_of(entropy(a) + entropy(b), a, b)
    apart, _ = transport_costs(kernel_of(problem), b, 0.0)
    report = BlockReport(
        method="independent",
        n=problem.n,
        m=problem.m,
        eps=None,
        rel_eps=None,
        sharpness=spread.sharpness,
        partners=spread.partners,
        partners_of_target=spread.partners_of_target,
        source_error=0.0,
        target_error=0.0,
        plan_error=0.0,
        cost_independent=apart,
        cost_coupled=apart,
        passes=0,
        converged=True,
        seconds=time.perf_counter() - started,
    )
    return IndependentCoupling(problem, report)
