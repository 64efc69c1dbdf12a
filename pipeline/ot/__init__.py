"""The numerics of a block, from points and eps to a coupling, in torch alone: no Ray, no files."""

from flowpairs.pipeline.ot.coupling import BlockReport, Coupling
from flowpairs.pipeline.ot.direct.exact import check_exact_memory, exact_memory, solve_exact
from flowpairs.pipeline.ot.direct.independent import independent
from flowpairs.pipeline.ot.problem import Problem, cost_std
from flowpairs.pipeline.ot.regions.solver import solve_in_regions
from flowpairs.pipeline.ot.relaxed.marginals import Relax
from flowpairs.pipeline.ot.relaxed.solver import solve_relaxed
from flowpairs.pipeline.ot.semidiscrete.assign import Assignment
from flowpairs.pipeline.ot.semidiscrete.solver import solve_semidiscrete
from flowpairs.pipeline.ot.semidiscrete.targets import Targets
from flowpairs.pipeline.ot.sinkhorn.solver import solve_sinkhorn
from flowpairs.pipeline.ot.sinkhorn.target_sharpness import solve_for_sharpness

__all__ = [
    "Assignment",
    "BlockReport",
    "Coupling",
    "Problem",
    "Relax",
    "Targets",
    "check_exact_memory",
    "cost_std",
    "exact_memory",
    "independent",
    "solve_exact",
    "solve_for_sharpness",
    "solve_in_regions",
    "solve_relaxed",
    "solve_semidiscrete",
    "solve_sinkhorn",
]
