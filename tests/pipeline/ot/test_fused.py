"""The fused kernels through Triton's interpreter."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.battery import Battery
from support.interpreter import interpreted, needs_triton, outside, run_interpreted
from support.ot_problems import blobs, random_weights, uniforms
from support.teams import in_teams

from flowpairs.pipeline.ot import solve_sinkhorn
from flowpairs.pipeline.ot.backends.fused.backend import Fused
from flowpairs.pipeline.ot.backends.fused.fused_logits import SHAPES, FusedLogits, TileShape
from flowpairs.pipeline.ot.backends.fused.halves import halved
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.sinkhorn.sweep import LN_2
from flowpairs.pipeline.ot.tiles import partition, tiling
from flowpairs.pipeline.ot.tiles.centred_points import as_centred
from flowpairs.pipeline.ot.tiles.kernel import LOG2E, kernel_of
from flowpairs.pipeline.ot.tiles.logits import InnerLogits
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team
from flowpairs.pipeline.ot.tiles.tiling import Workers
from flowpairs.pipeline.solve.device_memory import points_bytes

SMALL = TileShape(32, 32, 16, 4, 1)


@needs_triton
@outside
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_here_through_the_interpreter() -> None:
    run_interpreted(__file__)


@pytest.mark.parametrize("d", [64, 500])
@pytest.mark.parametrize("bits", [50.0, 1500.0])
def test_three_products_of_halves_are_as_exact_as_one_of_float32(d: int, bits: float) -> None:
    random = torch.Generator().manual_seed(d)
    x, y = (torch.randn(400, d, generator=random, dtype=torch.float64) for _ in range(2))
    x *= bits / (x @ y.T).abs().max()
    truth = x @ y.T
    xh, xl, px = halved(x, 16)
    yh, yl, py = halved(y, 16)
    terms = ((xl, yh), (xh, yl), (xh, yh))
    ours = sum(a.float().double() @ b.float().double().T for a, b in terms) / (px * py)
    split, single = ((part - truth).abs().max().item() for part in (ours, (x.float() @ y.float().T).double()))
    print(f"d={d}, logits to {bits:.0f} bits: split {split:.1e}, float32 {single:.1e}")
    assert split < single


@interpreted
@pytest.mark.parametrize("d", [3, 20])
def test_a_sweep_is_that_of_float64(d: int) -> None:
    """Rows, columns, moments and flags, at references that are off by up to three bits."""
    from flowpairs.pipeline.ot.backends.fused.kernels import sweep_kernel

    n, m, width, bm, bn, bk = 70, 300, 100, 32, 32, 16
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(k, d, generator=random, dtype=torch.float64) * s for k, s in ((n, 8), (m, 1)))
    gamma = torch.randn(m, generator=random, dtype=torch.float64)
    (xh, xl, px), (yh, yl, py) = halved(x, bk), halved(y, bk)
    logits = x @ y.T + gamma.float()
    off = torch.rand(n, generator=random) * 6 - 3
    ref = (torch.logsumexp(logits * 0.6931471805599453, 1) / 0.6931471805599453 + off).float()
    weight, low = torch.rand(n, generator=random) / n, torch.full((n,), -6.0)
    columns, flags = torch.zeros(m, dtype=torch.int64), torch.zeros(n, 3, 1, dtype=torch.int32)
    mass, moment = torch.empty(n, 3), torch.empty(n, 3)
    sweep_kernel[(3, 3)](
        *(xh, xl, yh, yl, gamma.float(), ref, weight, low, columns, mass, moment, flags, n, m, width, 1),
        *(1 / (px * py), xh.shape[1], bm, bn, bk, True),
    )
    shifted = logits - ref.double()[:, None]
    w = shifted.exp2()
    assert torch.allclose(mass.double(), w.view(n, 3, 100).sum(2), rtol=5e-5, atol=1e-9)
    terms = (w * shifted).view(n, 3, 100)  # of both signs, so the error is one of their sizes
    assert bool(((moment.double() - terms.sum(2)).abs() <= 2e-4 * terms.abs().sum(2) + 1e-5).all())
    assert torch.allclose(columns.double() / 2**62, (w * weight.double()[:, None]).sum(0), rtol=5e-5, atol=1e-9)
    padded = torch.nn.functional.pad(shifted.view(n, 3, 100), (0, 28), value=-1e30).view(n, 3, 4, 32)
    for t in range(4):
        assert torch.equal((flags[:, :, 0] >> t & 1).bool(), padded[:, :, t].amax(2) >= -6)


@interpreted
def test_row_blocks_give_the_same_integers_in_any_order() -> None:
    """And as one launch: what a block adds to the marginal, and what is found of its rows, depends on it alone."""
    problem = blobs(160, 200, 3, rel_eps=0.05)
    kernel = kernel_of(problem)
    gamma = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = kernel.bound(gamma, problem.eps)
    assert isinstance(logits, InnerLogits)
    fused = FusedLogits.of(logits, SMALL)
    top, _ = fused.log_sums(slice(0, 160))
    ref, weight = top.amax(1), torch.full((160,), 1 / 160)
    whole = fused.sweep(slice(0, 160), ref, weight, None)
    for seed in range(3):
        columns, phi = torch.zeros_like(whole.columns), torch.zeros_like(whole.phi)
        for start in 32 * torch.randperm(5, generator=torch.Generator().manual_seed(seed)):
            rows = slice(int(start), int(start) + 32)
            part = fused.sweep(rows, ref[rows], weight[rows], None)
            columns, phi[rows] = columns + part.columns, part.phi
        assert torch.equal(columns, whole.columns)
        assert torch.equal(phi, whole.phi)


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut 160 rows into five pieces."""
    monkeypatch.setattr(tiling, "CPU_ROWS", (32,) * 3)


@interpreted
@pytest.mark.parametrize("wrong", [None, 70])
def test_a_pass_at_foretold_sums_measures_the_plan_that_they_give(in_pieces: None, wrong: int | None) -> None:
    """And rows of a piece in which one is off by far have exact ones."""
    problem = blobs(160, 200, 3, rel_eps=0.05)
    kernel, random = kernel_of(problem), torch.Generator().manual_seed(0)
    gamma = torch.randn(200, generator=random, dtype=torch.float64) / 4
    a, b = problem.weights()
    logits, share = kernel.bound(gamma, problem.eps), RowPartition(160, 200, a.device)
    dense = kernel.dense().mul(-LOG2E / problem.eps) + gamma
    phi = dense.mul(LN_2).logsumexp(1) / LN_2
    off = torch.rand(160, generator=random, dtype=torch.float64) - 0.4
    if wrong is not None:
        off[wrong] = 5.0
    with Workers(a.device) as workers:
        seen, exact = (
            Fused().sweep(logits, gamma, a, share, workers, keep=16, foretold=sums) for sums in (phi - off, None)
        )
    off[64:96] *= wrong is None
    masses = a * off.exp2()
    masses /= masses.sum()
    columns = masses @ (dense - phi[:, None]).exp2()
    assert torch.allclose(seen.phi, phi, atol=2e-4)
    assert torch.allclose(seen.masses, masses, rtol=2e-4)
    assert torch.allclose(seen.columns, columns, rtol=5e-4)
    assert torch.allclose(seen.bands.sum(0), columns, rtol=5e-4)
    for name in ("bits", "groups"):
        assert torch.allclose(getattr(seen, name), getattr(exact, name), rtol=1e-3, atol=1e-4)
    table, at = dense - phi[:, None], (seen.entries.i.long(), seen.entries.j.long())
    assert torch.allclose(seen.entries.logits.double(), table[at], atol=5e-4)
    above = table + off[:, None]  # what is foretold is what entries are compared with
    assert len(at[0]) == (above > above[at].min() - 1e-3).sum() > 8 * 160, "the largest of all rows"
    bound = (columns - b).abs().sum() + (masses - a).abs().sum()
    assert seen.error(a, b, share) == pytest.approx(bound.item(), rel=1e-3)
    assert (a @ table.exp2() - b).abs().sum() <= bound


@interpreted
@pytest.mark.parametrize(("kind", "rel_eps"), [("spread", 0.3), ("spread", 0.05), ("moons", 0.1), ("moons", 0.03)])
def test_solves_take_at_most_a_pass_more_and_fewer_sweeps(
    kind: str, rel_eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, log_sums, plain = torch.Generator().manual_seed(0), [], FusedLogits.log_sums
    angle = math.pi * torch.rand(400, generator=random)
    moons = 3 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(400, 2, generator=random)
    x1 = moons if kind == "moons" else torch.randn(400, 12, generator=random) * torch.linspace(0.2, 2, 12)
    problem = Problem(torch.randn(x1.shape, generator=random), x1, 1.0).at(rel_eps)
    monkeypatch.setattr(FusedLogits, "log_sums", lambda self, rows: (log_sums.append(rows), plain(self, rows))[1])
    ours = solve_sinkhorn(problem, backend="triton").report
    exact = solve_sinkhorn(problem, backend="torch").report
    pieces = len(RowPartition(400, 400, problem.x0.device).all_pieces())
    assert ours.converged
    assert ours.passes <= exact.passes + 1
    assert ours.passes + len(log_sums) / pieces < 2 * exact.passes


@interpreted
def test_a_solve_goes_on_at_foretold_sums_to_the_same_bits() -> None:
    problem, saved = blobs(300, 200, 3, rel_eps=0.02), []
    whole = solve_sinkhorn(problem, backend="triton", save=lambda state: saved.append(copy.deepcopy(state)))
    assert any("foretold" in state for state in saved)
    for state in saved:
        again = solve_sinkhorn(problem, backend="triton", resume=state)
        assert torch.equal(again.f, whole.f)
        assert torch.equal(again.g, whole.g)


@interpreted
def test_largest_has_the_first_column_and_the_next_logit() -> None:
    random = torch.Generator().manual_seed(0)
    left, right = (torch.randint(-3, 4, (k, 2), generator=random).float() for k in (50, 200))
    products = InnerLogits(as_centred(left), as_centred(right), 1.0, torch.zeros(200, dtype=torch.float64), left.dtype)
    column, best, second = FusedLogits.of(products, SMALL).largest(slice(0, 50))
    logits = (left @ right.T).numpy()  # small integers, so exact and with many ties
    assert (column.numpy() == logits.argmax(1)).all()
    highest = np.sort(logits, 1)
    assert (best.numpy() == highest[:, -1]).all()
    assert (second.numpy() == highest[:, -2]).all()


def answers(team: Team) -> list[torch.Tensor]:
    """Potentials and draws of a problem with weights, zeros among them."""
    problem = replace(blobs(1200, 40, 2, rel_eps=0.2), a=random_weights(1200, 20, 1), b=random_weights(40, 10, 2))
    coupling = solve_sinkhorn(problem, tol=0.02, team=team, backend="triton")
    return [coupling.f, coupling.g, coupling.draw(uniforms(1200))]


@interpreted
def test_bits_are_those_of_one_process_for_three(tmp_path: Path) -> None:
    alone = answers(SINGLE)
    for member in in_teams(answers, (3,), tmp_path)[3]:
        assert all(torch.equal(one, other) for one, other in zip(alone, member, strict=True))


def finely_cut(team: Team) -> list[torch.Tensor]:
    """The same with more pieces than bands, five and four, so that two processes share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "PIECES", 4)
        for name, value in {"CPU_ROWS": (240,) * 3, "CPU_GROUPS": 1}.items():
            patch.setattr(tiling, name, value)
        return answers(team)


@interpreted
def test_bits_are_those_of_one_process_where_pieces_share_bands(tmp_path: Path) -> None:
    alone = finely_cut(SINGLE)
    for member in in_teams(finely_cut, (2,), tmp_path)[2]:
        assert all(torch.equal(one, other) for one, other in zip(alone, member, strict=True))


def test_points_are_split_once_and_rows_again_where_the_scale_has_other_digits() -> None:
    kernel = kernel_of(Problem(torch.randn(100, 500), torch.randn(30, 500), 1.0))
    gamma = torch.zeros(30, dtype=torch.float64)
    first, sharper, other = (FusedLogits.of(kernel.bound(gamma, eps), SHAPES[9, 0]) for eps in (1.0, 1 / 16, 0.3))
    assert sharper.xh is first.xh
    assert sharper.scale == 16 * first.scale
    assert other.xh is not first.xh
    assert other.yh is first.yh
    assert first.xh.nbytes + first.xl.nbytes <= points_bytes(500) * 100 - 4 * 500 * 100, "beside float32"
    kernel.forget()
    assert FusedLogits.of(kernel.bound(gamma, 1.0), SHAPES[9, 0]).yh is not first.yh


class OfTriton(Battery):
    """At an error that float32 reaches for every case: below, a solve asks for float64, which is refused."""

    name = "triton"
    tol = 1e-4


@interpreted
class TestInterpreted(OfTriton):
    """But for the cases of ten thousand rows, and of the torch tiles' threads, which an interpreter is too slow for."""

    test_frequencies_are_those_of_the_plan = None
    test_draws_do_not_depend_on_tiles_or_threads = None
    test_bits_do_not_depend_on_threads = None


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnCuda(OfTriton):
    device = "cuda"
