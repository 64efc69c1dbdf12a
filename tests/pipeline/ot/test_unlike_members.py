"""Members whose sums and products differ in their last bits, as on unlike processors, take the same decisions."""

from contextlib import nullcontext
from dataclasses import replace
from math import nextafter
from typing import Any

import numpy as np
import pytest
import torch
from support.ot_problems import blobs, dense, random_weights, uniforms
from support.teams import in_teams
from torch.utils._python_dispatch import TorchDispatchMode

from flowpairs.pipeline.ot import Problem, solve_for_sharpness, solve_sinkhorn
from flowpairs.pipeline.ot.coupling import EntropicCoupling
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team

N, M, TOL = 1300, 900, 1e-2
CASES = "tied rows", "at the bound", "sharpness", "function", "clusters", "an outlier"
ROUNDED = ("sum", "mean", "mm", "mv", "dot", "addmm", "addmv", "exp", "exp2", "log2", "sqrt", "linalg_vector_norm",
           "_linalg_eigh", "_linalg_solve_ex", "index_add_", "index_add", "special_entr", "scatter_add_")  # fmt: skip


class OtherRounding(TorchDispatchMode):
    """Changes what sums, products and functions return by parts in 10^14, otherwise in each call."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple) else (out,):
            if func.overloadpacket.__name__ in ROUNDED and x.dtype == torch.float64:
                x.mul_(1 + 1e-14 * torch.randn(x.shape, generator=self.random, dtype=torch.float64))
        return out


def problem_of(case: str) -> Problem:
    if case == "clusters":  # that exchange hardly anything, so that parts are found
        normal = np.random.default_rng(10).standard_normal
        left, right = (np.repeat([0, 1], [k, N - k])[:, None] * [[40.0, 0.0]] for k in (N // 2 + 1, N // 2 - 1))
        points = (torch.from_numpy(normal((N, 2)) + side).float() for side in (left, right))
        return Problem(*points, 1.0).at(0.01)
    problem = blobs(N, M, 2, rel_eps=0.02)
    if case == "tied rows":  # many of the same length, in the order of which a block is cut
        problem = replace(problem, x0=problem.x0.round(), x1=problem.x1.round()).at(0.1)
    if case == "function":  # which starts from a thinned problem
        return replace(problem, cost=lambda x0, x1: torch.cdist(x0, x1, p=1)).at(0.1)
    if case == "an outlier":
        far = problem.x1.clone()
        far[17] *= 1e4
        return replace(problem, x1=far)
    return replace(problem, a=random_weights(N, 50, 1), b=random_weights(M, 50, 2))


def solved(case: str, tol: float, team: Team = SINGLE) -> tuple[EntropicCoupling, list[float]]:
    errors = list[float]()
    problem, options = problem_of(case), {"tol": tol, "team": team, "progress": lambda _, error: errors.append(error)}
    with OtherRounding(team.rank) if team.rank else nullcontext():
        found = (
            solve_for_sharpness(problem, 0.3, **options) if case == "sharpness" else solve_sinkhorn(problem, **options)
        )
        return found, errors


def tolerances() -> dict[str, float]:
    """A tolerance for each case; one that the last pass of a solve meets by its last bit."""
    bound = TOL
    for _ in range(20):
        error = solved("at the bound", bound)[1][-1]
        if bound == nextafter(error, 1):
            return dict.fromkeys(CASES, TOL) | {"at the bound": bound}
        bound = nextafter(error, 1)
    raise AssertionError("no solve ends at its tolerance")


def found(team: Team) -> dict[str, Any]:
    """What a member found in each case, its numbers rounded otherwise than the first member's."""
    out = {}
    for case, tol in tolerances().items():
        coupling, errors = solved(case, tol, team)
        out[case] = {"vectors": [coupling.f, coupling.g, coupling.draw(uniforms(coupling.problem.n))], "errors": errors}
        out[case] |= {"passes": coupling.report.passes, "eps": coupling.problem.eps}
    return out


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return in_teams(found, (2,), tmp_path_factory.mktemp("team"))[2]


@pytest.mark.timeout(120)  # members that disagree wait for each other
@pytest.mark.parametrize("case", CASES)
def test_members_take_the_decisions_of_the_first(case: str, together: list[dict]) -> None:
    first, *others = (member[case] for member in together)
    for other in others:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(first["vectors"], other["vectors"], strict=True))
        assert [other[name] for name in ("passes", "eps", "errors")] == [first[n] for n in ("passes", "eps", "errors")]
    problem = replace(problem_of(case), eps=first["eps"])
    f, g, drawn = first["vectors"]
    plan, _ = dense(problem, f, g)
    a, b = problem.weights()
    assert (plan.sum(0) - b).abs().sum() < 1.05 * TOL
    assert (plan.sum(1) - a).abs().sum() < 1e-3  # float32 of the outlier
    assert (plan[torch.arange(N), drawn][a > 0] > 0).all()
