"""A block over more members than it has bands: the bits of one process, and what a team may be."""

from itertools import pairwise

import pytest
import torch
from support.ot_problems import blobs, uniforms
from support.teams import in_threads

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import solve_sinkhorn
from flowpairs.pipeline.ot.sinkhorn import surrogate, weak_parts
from flowpairs.pipeline.ot.sinkhorn.surrogate import Surrogate
from flowpairs.pipeline.ot.sinkhorn.surrogate_part import IntegerPart, SurrogatePart
from flowpairs.pipeline.ot.sinkhorn.sweep import sweep
from flowpairs.pipeline.ot.tiles import tiling
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.partition import PIECES, SINGLE, RowPartition, Team, check_team
from flowpairs.pipeline.ot.tiles.tiling import Workers

N, M, ROWS, MEMBERS = 1120, 300, 16, 66
GPU = torch.device("cuda")


@pytest.fixture
def finely_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small blocks as those of a GPU with more than 64 sections: 70 of 16 rows, two in six of the bands."""
    monkeypatch.setattr(surrogate, "part_kind", lambda device: IntegerPart)
    for name, value in {"CPU_ROWS": (ROWS,) * 3, "CPU_SECTIONS": N // ROWS, "CPU_GROUPS": tiling.GPU_GROUPS}.items():
        monkeypatch.setattr(tiling, name, value)


def solved(team: Team) -> list[torch.Tensor]:
    """Potentials and draws of a plan of which a good part is kept in bands."""
    coupling = solve_sinkhorn(blobs(N, M, 2, rel_eps=0.5), tol=1e-3, team=team)
    return [coupling.f, coupling.g, coupling.draw(uniforms(N))]


def test_bits_of_a_solve_by_66_members_are_those_of_one(finely_cut: None) -> None:
    alone = solved(SINGLE)
    for member in in_threads(solved, MEMBERS):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(alone, member, strict=True))


def passed(team: Team) -> dict[str, torch.Tensor]:
    """What a pass over a problem in clusters gives, and all that is made of its bands."""
    problem = blobs(N, M, 2, rel_eps=0.1)
    kernel = kernel_of(problem)
    gamma = kernel.gamma(torch.zeros(M), problem.eps)
    a, b = problem.weights()
    with Workers(torch.device("cpu")) as workers:
        share = RowPartition(N, M, torch.device("cpu"), team)
        swept = sweep(kernel.bound(gamma, problem.eps), gamma, a, share, workers, keep=8, entropies=True)
        stand_in = Surrogate(swept, a, b, kernel.log_b, share, workers)
        found = [stand_in.solve(sharpen, 1e-6) for sharpen in (1.0, 4.0)]
        rows, columns = weak_parts._givers(swept, share, torch.ones(M, dtype=torch.int64))
    first = share._band(share._runs_before[share.mine.start])
    return {
        "pieces": torch.tensor(len(stand_in.pieces)),
        "bands": torch.tensor([first + band for band in share.bands(len(share.all_pieces()))]).unique(),
        "masses": swept.bands,
        "columns": swept.columns,
        "gamma": torch.stack([one.gamma for one in found]),
        "numbers": torch.tensor([(one.error, one.rest, one.entropy) for one in found]),
        "distance": torch.tensor(stand_in.distance(1e-6)),
        "givers": torch.stack([columns, rows]),
    }


def test_what_members_share_of_a_band_is_summed(finely_cut: None) -> None:
    """A pass against a float64 plan, and a stand-in with rest in bands against that of one process."""
    alone, members = passed(SINGLE), in_threads(passed, MEMBERS)
    problem = blobs(N, M, 2, rel_eps=0.1)
    plan = (problem.x0.double() @ problem.x1.double().T / problem.eps).softmax(1) / N
    assert torch.allclose(alone["columns"], plan.sum(0), rtol=1e-4, atol=1e-9)
    cuts = [ROWS * next(k for k in range(70) if k * PIECES // 70 == band) for band in range(PIECES)] + [N]
    truth = torch.stack([plan[low:high].sum(0) for low, high in pairwise(cuts)])
    assert torch.allclose(alone["masses"], truth, rtol=1e-4, atol=1e-9)
    assert alone["pieces"] == 70, "a rest in blocks"
    shared = sum(len(member["bands"]) for member in members) - PIECES
    assert shared == 6
    for member in members:
        assert torch.equal(member["masses"], alone["masses"][member["bands"]])
        assert all(torch.equal(member[name], alone[name]) for name in ("columns", "gamma", "numbers", "distance"))
    givers = torch.cat([member["givers"] for member in members], 1)
    assert torch.equal(givers[:, givers[0].argsort()], alone["givers"]), "each column is given a row once, and the same"


@pytest.mark.parametrize("kind", [SurrogatePart, IntegerPart])
def test_parts_of_cpus_may_share_bands_too(
    kind: type[SurrogatePart], finely_cut: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And both kinds of parts say the same, but for rounding."""
    integers = passed(SINGLE)
    monkeypatch.setattr(surrogate, "part_kind", lambda device: kind)
    found = in_threads(passed, 3)
    for name in ("columns", "gamma", "numbers", "distance"):
        assert all(torch.equal(member[name], found[0][name]) for member in found)
        assert torch.allclose(found[0][name], integers[name], rtol=1e-6, atol=1e-6)


def test_a_block_on_gpus_keeps_as_many_members_busy_as_it_has_sections() -> None:
    sizes = {2**16: 32, 2**19: 64, 2**20: 128, 2**21: 256, 2**22: 512}
    assert {n: len(tiling.sections(n, n, GPU)) for n in sizes} == sizes
    check_team(128, 2**20, 2**20, GPU)
    with pytest.raises(InputError, match=r"actors_per_block=129: a block of 1048576 source rows keeps 128 busy; lower"):
        check_team(129, 2**20, 2**20, GPU)
