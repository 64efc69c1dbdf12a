"""A block over real processes: the same bits, whatever their number."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from support.ot_problems import blobs, random_weights, uniforms
from support.teams import in_teams

from flowpairs.pipeline.ot import solve_for_sharpness, solve_sinkhorn
from flowpairs.pipeline.ot.backends.keops import KeOps
from flowpairs.pipeline.ot.costs.formula import Formula
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team

N, M = 1200, 400
CASES = ["dot", "sharpness", "function", "keops", "formula"]
COMPILED = "keops", "formula"


def answers(case: str, team: Team) -> list[torch.Tensor]:
    """Potentials and draws of a problem with weights, zeros among them."""
    problem = replace(blobs(N, M, 2, rel_eps=0.1), a=random_weights(N, 50, 1), b=random_weights(M, 50, 2))
    if case == "sharpness":
        coupling = solve_for_sharpness(problem, 0.7, tol=0.01, team=team)
    elif case == "function":
        problem = replace(problem, cost=lambda x0, x1: torch.cdist(x0, x1, p=1)).at(0.1, team)
        coupling = solve_sinkhorn(problem, tol=0.01, team=team)
    elif case == "formula":
        problem = replace(problem, cost=Formula("SqNorm2(X - Y) / 2")).at(0.1, team)
        coupling = solve_sinkhorn(problem, tol=0.01, team=team)
    else:
        coupling = solve_sinkhorn(problem, tol=0.01, team=team, backend="keops" if case == "keops" else "torch")
    order = torch.randperm(M, generator=torch.Generator().manual_seed(0))
    balanced = [coupling.draw_balanced(uniforms(N), order)] if case == "dot" else []
    return [coupling.f, coupling.g, coupling.draw(uniforms(N)), *balanced]


def usable() -> list[str]:
    return [case for case in CASES if case not in COMPILED or KeOps().refusal(blobs(1, 1, 1, 1.0)) is None]


def found(team: Team) -> dict[str, list]:
    rows = RowPartition(N, M, torch.device("cpu"), team).rows
    return {case: answers(case, team) for case in usable()} | {"rows": [rows.start, rows.stop]}


@pytest.fixture(scope="module")
def alone() -> dict[str, list[torch.Tensor]]:
    return {case: answers(case, SINGLE) for case in usable()}


@pytest.fixture(scope="module")
def together(alone: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    """What every member of teams of two and three found; after `alone`, whose compiled formulas they load."""
    return in_teams(found, (2, 3), tmp_path_factory.mktemp("team"))


@pytest.mark.parametrize("case", CASES)
def test_bits_do_not_depend_on_the_number_of_processes(
    case: str, alone: dict[str, list[torch.Tensor]], together: dict[int, list[dict]]
) -> None:
    if case not in alone:
        pytest.skip("KeOps needs a C++ compiler")
    for members in together.values():
        for member in members:
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(alone[case], member[case], strict=True))


def test_members_share_the_rows(together: dict[int, list[dict]]) -> None:
    for members in together.values():
        bounds = [0, *(member["rows"][1] for member in members)]
        assert [member["rows"] for member in members] == [list(rows) for rows in pairwise(bounds)]
        assert bounds[-1] == N
        assert all(low < high for low, high in pairwise(bounds))
