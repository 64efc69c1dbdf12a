"""The numerics of a block: from points and eps to a coupling, in pure torch; no Ray, no files."""

from pipeline.ot.coupling import BlockReport, Coupling
from pipeline.ot.exact import check_exact_memory, exact_memory, solve_exact
from pipeline.ot.independent import independent
from pipeline.ot.problem import Problem, cost_std
from pipeline.ot.sharpen import solve_for_entropy
from pipeline.ot.sinkhorn import solve_sinkhorn

__all__ = [
    "BlockReport",
    "Coupling",
    "Problem",
    "check_exact_memory",
    "cost_std",
    "exact_memory",
    "independent",
    "solve_exact",
    "solve_for_entropy",
    "solve_sinkhorn",
]
