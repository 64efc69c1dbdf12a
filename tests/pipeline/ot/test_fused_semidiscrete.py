"""Semi-discrete passes, solves and partners by the fused kernels, through Triton's interpreter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.interpreter import interpreted, needs_triton, outside, run_interpreted
from support.ot_problems import uniforms
from support.semidiscrete import Gaussian, data, fresh_chi2, partners_by_hand
from support.teams import in_teams
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.ot.backends.choose import choose_for_products
from flowpairs.pipeline.ot.semidiscrete import fused_scores
from flowpairs.pipeline.ot.semidiscrete.assign import Assignment
from flowpairs.pipeline.ot.semidiscrete.point_pass import PointPass, point_pass
from flowpairs.pipeline.ot.semidiscrete.search import FusedSearch
from flowpairs.pipeline.ot.semidiscrete.solver import solve_semidiscrete
from flowpairs.pipeline.ot.semidiscrete.targets import Targets
from flowpairs.pipeline.ot.tiles import tiling
from flowpairs.pipeline.ot.tiles.centred_points import as_centred
from flowpairs.pipeline.ot.tiles.partition import SINGLE, Team
from flowpairs.pipeline.ot.tiles.tiling import Workers
from flowpairs.pipeline.store.format import read_index

N = 300
CPU = torch.device("cpu")


@needs_triton
@outside
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_here_through_the_interpreter() -> None:
    run_interpreted(__file__)


@outside
def test_kernels_are_refused_where_they_cannot_serve(tmp_path: Path) -> None:
    assert choose_for_products("auto", CPU) == choose_for_products("torch", CPU) == "torch"
    targets = Targets(data(30, 3))
    for work in (
        lambda: choose_for_products("triton", CPU),
        lambda: solve_semidiscrete(targets, Gaussian(3), 0.0, backend="triton"),
        lambda: Assignment(data(30, 3), torch.zeros(30), 0.0, backend="triton"),
        lambda: couple(semidiscrete_job(tmp_path / "pairs")),
    ):
        with pytest.raises(InputError, match=r"coupling.backend='triton': .*; give backend torch"):
            work()
    with pytest.raises(InputError, match=r"coupling.backend='keops'"):
        choose_for_products("keops", CPU)


def semidiscrete_job(directory: Path) -> CoupleConfig:
    """A job of few pairs of few data by the kernels."""
    rows = directory.parent / "rows.npy"
    np.save(rows, data(200, 4).numpy())
    coupling = {"method": "semidiscrete", "rel_eps": 0.1, "n": 64, "chi2": 0.9, "backend": "triton"}
    given = {"data": {"path": str(rows)}, "coupling": coupling, "cluster": {"actors": 0}}
    return validate(CoupleConfig, given | {"output": {"dir": str(directory), "pairs": 64, "payload": "ids"}})


@interpreted
def test_a_job_runs_by_the_kernels(tmp_path: Path) -> None:
    couple(semidiscrete_job(tmp_path / "pairs"))
    assert read_index(tmp_path / "pairs").pairs == 64


def passes(b: Tensor | None, eps: float, wanted: float, small: float, points: int) -> list[PointPass]:
    """The same pass in torch and by the kernels."""
    g = torch.randn(N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    targets = Targets(data(N, 5), b)
    with Workers(CPU) as workers:
        return [
            point_pass(targets, Gaussian(5), 700, points, g, eps, small, workers, wanted, backend)
            for backend in ("torch", "triton")
        ]


def cut(patch: pytest.MonkeyPatch) -> None:
    """Cut a few data into several sections, and points into batches."""
    patch.setattr(tiling, "CPU_ROWS", (64,) * 3)
    patch.setattr(fused_scores, "BATCH", 200)


@pytest.fixture
def many_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch)


@interpreted
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("eps", "wanted", "small"), [(0.4, 0.4, 2.0**-10), (0.4, 0.0, 2.0**-10), (0.4, 0.08, 2.0**-7)])
def test_a_pass_is_that_of_torch(many_sections: None, eps: float, wanted: float, small: float, weighted: bool) -> None:
    b = torch.linspace(0.2, 1.8, N, dtype=torch.float64) / N if weighted else None
    assert len(Targets(data(N, 5)).share.sections) == 5
    torchs, ours = passes(b, eps, wanted, small, 500)
    for mine, other in ((ours.soft, torchs.soft), (ours.wanted, torchs.wanted)):
        assert torch.allclose(mine.masses, other.masses, rtol=1e-4, atol=1e-8)
        assert torch.allclose(mine.squares, other.squares, rtol=1e-3, atol=1e-5)
        assert mine.missed == pytest.approx(other.missed, rel=1e-3)
    assert len(ours.entries.i) == pytest.approx(len(torchs.entries.i), rel=1e-3)
    dense = [torch.zeros(N, 500, dtype=torch.float64) for _ in range(2)]
    for table, seen in zip(dense, (torchs, ours), strict=True):
        table[seen.entries.i.long(), seen.entries.j.long()] = seen.entries.logits.exp2()
    assert torch.allclose(*dense, rtol=1e-4, atol=1e-6)
    order = ours.entries.i.long() * 500 + ours.entries.j
    assert bool((order.diff() > 0).all()), "sorted by target and point"


@interpreted
def test_every_point_hits_one_datum_however_small_its_largest_probability(many_sections: None) -> None:
    """Smoothed so much that no probability is an entry."""
    torchs, ours = passes(None, 50.0, 0.0, 0.5, 400)
    assert len(ours.entries.i) == len(torchs.entries.i) == 0
    assert torch.equal(ours.wanted.squares, torchs.wanted.squares)
    assert ours.wanted.squares.sum() == 400


def answers(team: Team) -> list[Tensor]:
    """Potentials at eps 0 and above it."""
    with pytest.MonkeyPatch.context() as patch:
        cut(patch)
        targets = Targets(data(N, 4), team=team)
        return [solve_semidiscrete(targets, Gaussian(4), eps, chi2=0.5, backend="triton").g for eps in (0.0, 0.1)]


@interpreted
def test_members_find_the_bits_of_one_process(tmp_path: Path) -> None:
    alone = answers(SINGLE)
    for member in in_teams(answers, (3,), tmp_path)[3]:
        assert all(torch.equal(one, other) for one, other in zip(alone, member, strict=True))


@interpreted
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_a_solve_gives_the_data_their_weights(eps: float) -> None:
    y = data(N, 20)  # more features than a step of the interpreter's tiles
    solved = solve_semidiscrete(Targets(y), Gaussian(20), eps, chi2=0.2, backend="triton")
    assert solved.report.converged
    assert fresh_chi2(y, solved) < 0.2


@interpreted
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.3, 5.0])
@pytest.mark.parametrize("n", [1, 2, 129, 700])
def test_partners_are_those_of_a_float64_loop(eps: float, n: int) -> None:
    random = torch.Generator().manual_seed(0)
    y, x = (torch.randn(k, 6, generator=random, dtype=torch.float64) for k in (n, 200))
    g, u = torch.randn(n, generator=random, dtype=torch.float64), uniforms(200)
    partners = Assignment(y, g, eps, backend="triton").partners(x, u)
    assert partners.tolist() == partners_by_hand(y, g, eps, x, u)


@interpreted
def test_points_in_doubt_get_the_partner_of_float64() -> None:
    random = torch.Generator().manual_seed(0)
    y = torch.randn(100, 8, generator=random, dtype=torch.float64).repeat(5, 1)
    y += 1e-9 * torch.randn(y.shape, generator=random, dtype=torch.float64)
    x = torch.randn(200, 8, generator=random, dtype=torch.float64)
    partners = Assignment(y, torch.zeros(500), 0.0, backend="triton").partners(x, torch.zeros(200, dtype=torch.float64))
    assert torch.equal(partners, (x @ (y - y.mean(0)).T).argmax(1))


@interpreted
@pytest.mark.parametrize("d", [3, 40])
def test_the_error_of_a_score_is_bounded(d: int) -> None:
    random = torch.Generator().manual_seed(d)
    y, x = (torch.randn(k, d, generator=random, dtype=torch.float64) * s for k, s in ((200, 30.0), (100, 1.0)))
    gamma = torch.randn(200, generator=random, dtype=torch.float64)
    search = FusedSearch(as_centred(y), gamma, 1.7)
    datum, best, runner = search._logits(x).largest(slice(0, 100))
    scores = x @ y.T * 1.7 + gamma
    ordered = scores.sort(1).values
    assert torch.equal(datum, scores.argmax(1))
    for found, wanted in ((best, ordered[:, -1]), (runner, ordered[:, -2])):
        assert bool(((found.double() - wanted).abs() <= search.error(x)).all())
    with Workers(CPU) as workers:
        row, column = search.near(x, torch.full((100,), 20.0, dtype=torch.float64), workers)
    assert torch.equal(torch.stack([row, column]), (scores >= ordered[:, -1:] - 20).nonzero().T)


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_takes_the_kernels_and_agrees_with_a_cpu() -> None:
    """Scores as exact as it says, a solve that ends, and the partners of a CPU."""
    assert choose_for_products("auto", torch.device("cuda")) == "triton"
    y, random = data(3000, 500), torch.Generator().manual_seed(0)
    x = torch.randn(512, 500, generator=random, dtype=torch.float64)
    search = FusedSearch(as_centred(y.double().cuda()), torch.zeros(3000, dtype=torch.float64).cuda(), 1.0)
    _, best, _ = search._logits(x.cuda()).largest(slice(0, 512))
    off = (best.double().cpu() - (x @ y.double().T).amax(1)).abs() / search.error(x.cuda()).cpu()
    print(f"largest error of a score: {off.max().item():.2g} of its bound")
    assert off.max() < 1
    g = solve_semidiscrete(Targets(y, device="cuda"), Gaussian(500), 0.0, chi2=0.2).g.cpu()
    for eps in (0.0, 0.5):
        alike = [Assignment(y, g, eps, device=device).partners(x, uniforms(512)).cpu() for device in ("cuda", "cpu")]
        assert torch.equal(*alike)
