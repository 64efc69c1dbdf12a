"""Semi-discrete potentials against closed forms, POT and plain sums; the same bits by any number of processes."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import ot as pot
import pytest
import torch
from support.semidiscrete import Gaussian, data, fresh_chi2, masses
from support.teams import in_teams
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem
from flowpairs.pipeline.ot.semidiscrete import solver, tiled_scores
from flowpairs.pipeline.ot.semidiscrete.assign import Assignment
from flowpairs.pipeline.ot.semidiscrete.point_pass import point_pass
from flowpairs.pipeline.ot.semidiscrete.solver import (
    chi_square,
    semidiscrete_cost_std,
    solve_semidiscrete,
)
from flowpairs.pipeline.ot.semidiscrete.targets import BATCH, Targets
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team
from flowpairs.pipeline.ot.tiles.tiling import Workers


@pytest.mark.parametrize("eps", [0.0, 0.02, 0.5])
def test_data_get_their_masses_from_points_that_the_solve_has_not_seen(eps: float) -> None:
    y = data(300, 5)
    solved = solve_semidiscrete(Targets(y), Gaussian(5), eps, chi2=0.05)
    assert solved.report.converged
    assert solved.report.chi2 <= 0.05
    assert fresh_chi2(y, solved) < 0.05
    # Statistically little is wasted: the best that P points can give is about N / P.
    assert solved.report.points < 6 * 300 / 0.05


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_rounds_of_less_than_a_point_a_datum_average_to_the_masses(monkeypatch: pytest.MonkeyPatch, eps: float) -> None:
    """Where data are many, a round has no more points than fit in memory, and its own potential is far off."""
    monkeypatch.setattr(solver, "ROUND", 1000)
    monkeypatch.setattr(solver, "CERTAIN", 3.0)
    y, sizes = data(4000, 8), [0]
    solved = solve_semidiscrete(Targets(y), Gaussian(8), eps, chi2=0.2, progress=lambda _r, p, _c: sizes.append(p))
    assert max(b - a for a, b in pairwise(sizes)) < 2000
    assert solved.report.converged
    points = Gaussian(8, seed=99).points(0, 100_000)
    p = torch.stack([masses(y, solved.g, eps, part) for part in points.split(2000)]).mean(0)
    assert (4000 * (p - 1 / 4000).square()).sum() - (0.04 if eps == 0 else 0) < 0.25


def test_cells_on_a_line_lie_where_the_normal_distribution_has_them() -> None:
    """In one dimension cells are intervals, whose ends the closed form knows: quantiles of k / N."""
    y = torch.tensor([[-1.0], [0.1], [0.2], [3.0]])
    g = solve_semidiscrete(Targets(y), Gaussian(1), 0.0, chi2=0.002).g
    cells = torch.tensor([(g[k] - g[k + 1]).item() / (y[k + 1] - y[k]).item() for k in range(3)])
    assert torch.allclose(cells, torch.tensor([-0.6745, 0.0, 0.6745]), atol=0.08)


def test_weights_of_the_data() -> None:
    y, b = data(60, 3), torch.linspace(1, 9, 60, dtype=torch.float64)
    b /= b.sum()
    solved = solve_semidiscrete(Targets(y, b), Gaussian(3), 0.1, chi2=0.02)
    assert fresh_chi2(y, solved, b) < 0.02


def test_the_dual_value_is_that_of_pots_plan_between_many_points() -> None:
    y = data(40, 2)
    points = Gaussian(2, seed=5).points(0, 4000)
    even, weights = np.full(4000, 1 / 4000), np.full(40, 1 / 40)
    exact = pot.emd2(even, weights, -(points.double() @ y.double().T).numpy())
    g = solve_semidiscrete(Targets(y), Gaussian(2), 0.0, chi2=0.01).g
    value = -(g + points.double() @ y.double().T).amax(1).mean() + g.mean()
    assert value.item() == pytest.approx(exact, rel=5e-3)


def test_a_pass_measures_what_its_definition_says() -> None:
    y, source, points = data(1500, 4), Gaussian(4), 3000
    g = torch.randn(1500, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    targets = Targets(y)
    with Workers(targets.device) as workers:
        crowd, hard, sharp, few = (
            point_pass(targets, source, 700, points, g, 0.4, small, workers, wanted)
            for small, wanted in ((2.0**-10, 0.4), (2.0**-10, 0.0), (2.0**-10, 0.08), (2.0**-5, 0.2))
        )
    x = source.points(700, points).double()
    scores = g + x @ y.double().T
    p = (scores / 0.4).softmax(1)
    assert torch.allclose(crowd.soft.masses, p.mean(0), rtol=1e-4, atol=1e-9)
    assert crowd.wanted is crowd.soft
    assert torch.equal(hard.wanted.squares, torch.bincount(scores.argmax(1), minlength=1500).double())
    assert torch.allclose(hard.wanted.masses * points, hard.wanted.squares, rtol=1e-12)
    for seen, wanted, bound in ((sharp, 0.08, 1e-5), (few, 0.2, 0.3)):
        sharper = (scores / wanted).softmax(1)
        assert (seen.wanted.masses - sharper.mean(0)).abs().sum() < seen.wanted.missed + 1e-5 < bound + 1e-5
        assert torch.allclose(seen.wanted.squares, sharper.square().sum(0), atol=10 * bound)
    kept = p >= 2.0**-10
    assert len(crowd.entries.i) == pytest.approx(kept.sum().item(), rel=1e-3)
    assert torch.allclose(crowd.soft.squares, (p * kept).square().sum(0), rtol=1e-3, atol=1e-5)
    shares = (p[crowd.entries.j.long(), crowd.entries.i.long()] / p.sum(0)[crowd.entries.i.long()]).log2()
    assert torch.allclose(crowd.entries.logits, shares, atol=1e-3)
    # The unbiased chi-square leaves out every point's meeting with itself.
    total, own = p.sum(0), p.square().sum(0)
    expected = 1500 * (total.square() - own).sum().item() / (points * (points - 1)) - 1
    assert chi_square(targets, crowd.soft, points) == pytest.approx(expected, rel=5e-3)


def test_std_of_the_cost_is_the_one_of_blocks() -> None:
    y, source = data(500, 4) + 3, Gaussian(4)
    block = Problem(source.points(0, 2**14), y, 1.0).at(1.0)
    assert semidiscrete_cost_std(Targets(y), source) == pytest.approx(block.eps, rel=1e-6)


def test_resumed_after_any_round_it_ends_in_the_same_bits() -> None:
    y, records = data(200, 4), []

    def keep(arrays: dict[str, Tensor]) -> None:
        records.append({name: value.clone() for name, value in arrays.items()})

    whole = solve_semidiscrete(Targets(y), Gaussian(4), 0.0, chi2=0.05, save=keep)
    assert len(records) == whole.report.rounds - 1 > 2
    for record in records[1:]:
        again = solve_semidiscrete(Targets(y), Gaussian(4), 0.0, chi2=0.05, resume=record)
        assert torch.equal(again.g, whole.g)
        assert again.report.points == whole.report.points


def test_a_start_near_the_end_saves_points() -> None:
    y = data(300, 5)
    cold = solve_semidiscrete(Targets(y), Gaussian(5), 0.05, chi2=0.05)
    warm = solve_semidiscrete(Targets(y), Gaussian(5, seed=1), 0.05, chi2=0.05, g0=cold.g + 7)
    assert warm.report.converged
    assert warm.report.points < cold.report.points


@pytest.mark.parametrize("make", [lambda: torch.ones(5, 3), lambda: data(1, 3), lambda: data(2, 1)])
def test_the_smallest_problems(make: Callable[[], Tensor]) -> None:
    """One datum, two, or five that are alike and so share their points evenly at eps > 0."""
    solved = solve_semidiscrete(Targets(make()), Gaussian(make().shape[1]), 0.1)
    assert solved.report.converged
    assert bool(torch.isfinite(solved.g).all())


@pytest.mark.parametrize("rel_eps", [0.0, 0.003])
@pytest.mark.parametrize("weighted", [False, True])
def test_equal_data_share_their_points(rel_eps: float, weighted: bool) -> None:
    """On a grid most data are equal; partners of fresh noise, drawn by their potential, follow the weights."""
    y = data(150, 2).round()
    b = torch.logspace(-2, 0, 150, dtype=torch.float64) if weighted else torch.ones(150, dtype=torch.float64)
    b /= b.sum()
    targets, source = Targets(y, b), Gaussian(2)
    assert targets.count == len(np.unique(y.numpy(), axis=0)) < 100
    eps = rel_eps * semidiscrete_cost_std(targets, source)
    solved = solve_semidiscrete(targets, source, eps, chi2=0.02)
    assert solved.report.converged
    points = Gaussian(2, seed=99).points(0, 150_000).double()
    u = torch.rand(len(points), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    partners = Assignment(y, solved.g, eps, b).partners(points, u)
    p = partners.bincount(minlength=150) / len(points)
    assert ((p - b).square() / b).sum() < 0.02 + 150 / len(points) * 3
    if rel_eps == 0:
        of_kind = torch.zeros(targets.count, dtype=torch.float64).index_add_(0, targets.kind, b)
        expected = torch.special.entr(b / of_kind[targets.kind])
        nats = torch.zeros(targets.count, dtype=torch.float64).index_add_(0, targets.kind, expected)
        some = Assignment(y, solved.g, eps, b).nats(points[:1000])
        assert some == pytest.approx(nats[targets.kind[partners[:1000]]].sum().item())


@pytest.mark.parametrize("n", [250, *(pytest.param(n, marks=pytest.mark.nightly) for n in (60, 500))])
@pytest.mark.parametrize("dim", [2, 8, 64])
@pytest.mark.parametrize("rel_eps", [0.003, *(pytest.param(e, marks=pytest.mark.nightly) for e in (0.02, 0.001, 0.0))])
def test_a_small_eps_takes_no_more_rounds_than_others(n: int, dim: int, rel_eps: float) -> None:
    y = torch.randn(n, dim, generator=torch.Generator().manual_seed(n + dim)) * torch.linspace(0.5, 2, dim)
    targets, source = Targets(y), Gaussian(dim)
    eps = rel_eps * semidiscrete_cost_std(targets, source)
    solved = solve_semidiscrete(targets, source, eps)
    assert solved.report.converged
    assert solved.report.rounds <= 8
    assert fresh_chi2(y, solved) < 0.06


@pytest.mark.nightly
def test_dense_data_on_a_line_converge() -> None:
    y = torch.randn(120, 1, generator=torch.Generator().manual_seed(251))
    assert solve_semidiscrete(Targets(y), Gaussian(1), 0.0).report.converged


def test_the_report_names_the_worst_datum_and_the_unused() -> None:
    y = data(300, 5)
    report = solve_semidiscrete(Targets(y), Gaussian(5), 0.0, chi2=0.05).report
    assert 0.2 < report.least_mass < 1 < report.greatest_mass < 3
    assert (report.unused, round(report.unused_by_chance)) == (0, 0)
    # A datum in the middle of four others and close to them: its cell at equal potentials is as good as empty.
    cross = torch.tensor([[1.0, 0.0], [-1, 0], [0, 1], [0, -1], [0, 0]]) * 10
    short = solve_semidiscrete(Targets(cross), Gaussian(2), 0.0, g0=torch.zeros(5), max_rounds=1).report
    assert (short.converged, short.unused, short.least_mass) == (False, 1, 0.0)
    assert short.greatest_mass == pytest.approx(1.25, abs=0.1)


def test_what_cannot_converge_says_so() -> None:
    short = solve_semidiscrete(Targets(data(300, 5)), Gaussian(5), 0.0, max_rounds=1)
    assert (short.report.converged, short.report.rounds) == (False, 1)


def test_bad_input_is_refused_in_a_sentence() -> None:
    targets, source = Targets(data(20, 3)), Gaussian(3)
    for options, sentence in (
        ({"eps": -1.0}, "eps=-1.0: the regularisation"),
        ({"eps": 0.0, "chi2": 0.0}, "chi2=0.0: give a chi-square between 1e-6 and 1"),
        ({"eps": 0.0, "max_rounds": 0}, "max_rounds=0"),
        ({"eps": 0.0, "g0": torch.full((20,), torch.nan)}, "g0: shape"),
    ):
        with pytest.raises(InputError, match=sentence):
            solve_semidiscrete(targets, source, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="b: needs one positive weight"):
        Targets(data(20, 3), torch.zeros(20))
    with pytest.raises(InputError, match="not finite"):
        Targets(torch.full((3, 2), torch.inf))


N = 700


class Counted(Gaussian):
    """Counts the points that it is asked for."""

    asked = 0

    def points(self, first: int, count: int) -> Tensor:
        self.asked += count
        return super().points(first, count)


def answer(eps: float, team: Team, source: Gaussian) -> Tensor:
    tiled_scores.ROOM = 100 * N  # so that points come in many batches
    return solve_semidiscrete(Targets(data(N, 4), team=team), source, eps, chi2=0.2).g


def found(team: Team) -> tuple[list[Tensor], list[int], int]:
    rows, source = RowPartition(N, BATCH, torch.device("cpu"), team).rows, Counted(4)
    return [answer(eps, team, source) for eps in (0.0, 0.05)], [rows.start, rows.stop], source.asked


def test_processes_that_share_data_and_points_find_the_same_bits(tmp_path: Path) -> None:
    expected, _, asked = found(SINGLE)
    for size, members in in_teams(found, (2, 3), tmp_path).items():
        assert all(a[1][1] == b[1][0] for a, b in pairwise(members))
        assert all(stop > start for _, (start, stop), _ in members)
        assert sum(count for _, _, count in members) == asked, "each point is made by one member"
        assert max(count for _, _, count in members) < 1.1 * asked / size
        for answers, _, _ in members:
            for got, wanted in zip(answers, expected, strict=True):
                assert torch.equal(got, wanted)
