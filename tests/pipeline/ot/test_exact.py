"""The exact coupling's plan, dual and memory."""

import math

import pytest
import torch
from support.ot_problems import blobs, random_weights

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem, exact_memory, solve_exact


def test_dual_certifies_the_plan() -> None:
    """min_j C_ij - g_j closes the duality gap, so both the plan and g are optimal."""
    problem = blobs(150, 200, 3, rel_eps=1.0, offset=100.0)
    problem = Problem(problem.x0, problem.x1, 1.0, random_weights(150, 20, 1), random_weights(200, 30, 2))
    coupling = solve_exact(problem)
    cost = -problem.x0.double() @ problem.x1.double().T
    a, b = problem.weights()
    dual = (a @ (cost - coupling.g)[:, b > 0].amin(1) + b @ coupling.g).item()
    norms = (a @ problem.x0.double().square().sum(1) + b @ problem.x1.double().square().sum(1)).item()
    assert (coupling.report.cost_coupled - norms) / 2 == pytest.approx(dual, rel=1e-9)
    assert max(coupling.report.source_error, coupling.report.target_error) < 1e-9


def test_a_permutation_has_sharpness_zero() -> None:
    report = solve_exact(blobs(100, 100, 2, rel_eps=1.0)).report
    assert report.sharpness == pytest.approx(0, abs=1e-9)
    assert report.partners == pytest.approx(1)


def test_too_large_is_refused_before_it_starts() -> None:
    big = torch.zeros(2**20, 1)
    with pytest.raises(InputError, match=r"coupling\.method=exact: .* at most \d+ rows"):
        solve_exact(Problem(big, big, math.nan))
    assert exact_memory(2**20, 2**20) > 2**44
