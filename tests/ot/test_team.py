"""A block over real processes: the same bits, whatever their number."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from ot_problems import blobs, random_weights, uniforms

from pipeline.ot import solve_for_entropy, solve_sinkhorn
from pipeline.ot.keops import KeOps
from pipeline.ot.share import ALONE, Share, Team
from pipeline.team import ProcessTeam, open_store

N, M = 1200, 400
CASES = ["dot", "sharpness", "function", "keops"]


def answers(case: str, team: Team) -> list[torch.Tensor]:
    """Potentials and draws of a problem with weights, zeros among them."""
    problem = replace(blobs(N, M, 2, rel_eps=0.1), a=random_weights(N, 50, 1), b=random_weights(M, 50, 2))
    if case == "sharpness":
        coupling = solve_for_entropy(problem, 0.7, tol=0.01, team=team)
    elif case == "function":
        problem = replace(problem, cost=lambda x0, x1: torch.cdist(x0, x1, p=1)).at(0.1, team)
        coupling = solve_sinkhorn(problem, tol=0.01, team=team)
    else:
        coupling = solve_sinkhorn(problem, tol=0.01, team=team, backend="keops" if case == "keops" else "torch")
    order = torch.randperm(M, generator=torch.Generator().manual_seed(0))
    balanced = [coupling.draw_balanced(uniforms(N), order)] if case == "dot" else []
    return [coupling.f, coupling.g, coupling.draw(uniforms(N)), *balanced]


def usable() -> list[str]:
    return [case for case in CASES if case != "keops" or KeOps().refusal(blobs(1, 1, 1, 1.0)) is None]


def child(number: int, ports: dict[int, int], directory: Path) -> None:
    member(number + 1, ports, directory)


def member(rank: int, ports: dict[int, int], directory: Path) -> None:
    """A process that belongs to one team after the other."""
    for size, port in ports.items():
        if rank < size:
            team = ProcessTeam.join("127.0.0.1", port, rank, size, "cpu")
            rows = Share(N, M, torch.device("cpu"), team).rows
            found = {case: answers(case, team) for case in usable()}
            torch.save({**found, "rows": [rows.start, rows.stop]}, directory / f"{size}-{rank}.pt")
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> dict[str, list[torch.Tensor]]:
    return {case: answers(case, ALONE) for case in usable()}


@pytest.fixture(scope="module")
def together(alone: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    """What every member of teams of two and three found, this process being the first of them.

    After `alone`, whose compiled formulas they load.
    """
    directory = tmp_path_factory.mktemp("team")
    stores = {size: open_store(size) for size in (2, 3)}
    ports = {size: port for size, (_, port) in stores.items()}
    children = processes.spawn(child, (ports, directory), nprocs=2, join=False)
    member(0, ports, directory)
    while not children.join():
        pass
    return {size: [torch.load(directory / f"{size}-{rank}.pt") for rank in range(size)] for size in ports}


@pytest.mark.parametrize("case", CASES)
def test_bits_do_not_depend_on_the_number_of_processes(
    case: str, alone: dict[str, list[torch.Tensor]], together: dict[int, list[dict]]
) -> None:
    if case not in alone:
        pytest.skip("KeOps needs a C++ compiler")
    for members in together.values():
        for found in members:
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(alone[case], found[case], strict=True))


def test_members_share_the_rows(together: dict[int, list[dict]]) -> None:
    for members in together.values():
        bounds = [0, *(found["rows"][1] for found in members)]
        assert [found["rows"] for found in members] == [list(rows) for rows in pairwise(bounds)]
        assert bounds[-1] == N
        assert all(low < high for low, high in pairwise(bounds))
