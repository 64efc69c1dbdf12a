"""The numerics of a block: from points and eps to a coupling, in pure torch; no Ray, no files."""

from pipeline.ot.assign import Assignment
from pipeline.ot.coupling import BlockReport, Coupling
from pipeline.ot.exact import check_exact_memory, exact_memory, solve_exact
from pipeline.ot.independent import independent
from pipeline.ot.problem import Problem, cost_std
from pipeline.ot.semidiscrete import solve_semidiscrete
from pipeline.ot.sharpen import solve_for_sharpness
from pipeline.ot.sinkhorn import solve_sinkhorn
from pipeline.ot.targets import Targets

__all__ = [
    "Assignment",
    "BlockReport",
    "Coupling",
    "Problem",
    "Targets",
    "check_exact_memory",
    "cost_std",
    "exact_memory",
    "independent",
    "solve_exact",
    "solve_for_entropy",
    "solve_semidiscrete",
    "solve_sinkhorn",
]
