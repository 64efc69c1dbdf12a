"""What every backend has to pass: each case holds it to POT, a closed form or a plain float64 loop.

A subclass says which backend, in which precision, on which device. One or two features do for all cases, so that a
backend that compiles for their number compiles once; one that needs more is given zeros, which change no cost.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import ot
import pytest
import torch
from scipy.stats import chisquare

from flowpairs.pipeline.ot import Problem, cost_std, solve_sinkhorn
from flowpairs.pipeline.ot.backends.choose import BackendName, choose
from flowpairs.pipeline.ot.backends.protocol import Backend
from flowpairs.pipeline.ot.coupling import EntropicCoupling
from flowpairs.pipeline.ot.tiles import tiling
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers
from support.ot_problems import blobs, by_rows, dense, random_weights, uniforms


class Battery:
    """Cases for the backend `name`; `tol` is the L1 error that it reaches on easy problems."""

    name: ClassVar[BackendName]
    dtype: ClassVar[torch.dtype] = torch.float32
    device: ClassVar[str] = "cpu"
    features: ClassVar[int] = 1  # at the least
    tol: ClassVar[float] = 1e-5
    distance_factor: ClassVar[float] = 1.0  # of the squared distances that are reported

    def given(self, problem: Problem) -> Problem:
        """The problem as this backend gets it."""
        x0, x1 = (
            torch.nn.functional.pad(x, (0, max(0, self.features - x.shape[1]))).to(self.device, self.dtype)
            for x in (problem.x0, problem.x1)
        )
        a, b = (None if w is None else w.to(self.device) for w in (problem.a, problem.b))
        return replace(problem, x0=x0, x1=x1, a=a, b=b)

    def solve(self, problem: Problem, tol: float | None = None) -> EntropicCoupling:
        return solve_sinkhorn(self.given(problem), tol=tol or self.tol, max_passes=200, backend=self.name)

    def plan(self, coupling: EntropicCoupling) -> torch.Tensor:
        return dense(coupling.problem, coupling.f, coupling.g).plan

    def at(self, problem: Problem, g: torch.Tensor) -> tuple[Backend, Logits, torch.Tensor]:
        """The backend and the logits at a potential, with their gamma."""
        given = self.given(problem)
        kernel = kernel_of(given)
        gamma = kernel.gamma(g.to(self.device), given.eps)
        return choose(self.name, given), kernel.bound(gamma, given.eps), gamma

    @pytest.mark.parametrize(("n", "m", "d"), [(60, 60, 2), (40, 90, 1), (90, 40, 2)])
    def test_plan_is_pots(self, n: int, m: int, d: int) -> None:
        """Weights and zeros among them; POT is given the rows that have any."""
        a, b = random_weights(n, n // 4, 1), random_weights(m, m // 4, 2)
        coupling = self.solve(replace(blobs(n, m, d, rel_eps=0.1), a=a, b=b))
        plan, cost = dense(coupling.problem, coupling.f, coupling.g)
        i, j = a > 0, b > 0
        dense_problem = (part.numpy() for part in (a[i], b[j], cost[i][:, j]))
        eps = coupling.problem.eps
        theirs = ot.sinkhorn(*dense_problem, eps, method="sinkhorn_log", stopThr=1e-9, numItermax=100_000)
        assert np.abs(plan[i][:, j].numpy() - theirs).sum() < 100 * self.tol
        assert plan[~i].sum() == plan[:, ~j].sum() == 0
        # The potentials of idle rows still satisfy the other side's equation.
        f, g = coupling.f.cpu(), coupling.g.cpu()
        assert torch.allclose(f, -eps * ((g - cost) / eps + b.log()).logsumexp(1), atol=100 * self.tol)

    def test_report_is_that_of_the_plan(self) -> None:
        problem = blobs(150, 100, 2, rel_eps=0.05)
        coupling = self.solve(problem, tol=1e-2)
        report = coupling.report
        plan, cost = dense(coupling.problem, coupling.f, coupling.g)
        squared = self.distance_factor * torch.cdist(problem.x0.double(), problem.x1.double()).square()
        entropy = torch.special.entr(plan).sum()
        mean_entropy = (math.log(150) + math.log(100)) / 2
        assert (plan.sum(1) - 1 / 150).abs().sum().item() == pytest.approx(report.source_error, abs=self.tol)
        assert (plan.sum(0) - 1 / 100).abs().sum().item() == pytest.approx(report.target_error, abs=self.tol)
        assert report.target_error < 1e-2
        assert report.sharpness == pytest.approx((entropy / mean_entropy - 1).item(), abs=self.tol)
        assert report.partners == pytest.approx(math.exp(entropy - math.log(150)), rel=10 * self.tol)
        assert report.partners_of_target == pytest.approx(math.exp(entropy - math.log(100)), rel=10 * self.tol)
        assert report.cost_coupled == pytest.approx((plan * squared).sum().item(), rel=10 * self.tol)
        assert report.cost_independent == pytest.approx(squared.mean().item(), rel=1e-6)
        assert report.rel_eps == pytest.approx(coupling.problem.eps / cost.std(correction=0).item(), rel=1e-6)

    def test_closed_form_of_gaussians(self) -> None:
        """Entropic transport between N(0, s0^2) and N(0, s1^2), on a grid fine enough to stand for the line."""
        eps, s0, s1 = 0.3, 0.8, 1.5
        grid = torch.linspace(-9, 9, 256, dtype=torch.float64)[:, None]
        a, b = (torch.softmax(-0.5 * (grid[:, 0] / s) ** 2, 0) for s in (s0, s1))
        plan = self.plan(self.solve(Problem(grid, grid, eps, a, b)))
        covariance = (plan * grid * grid.T).sum().item()
        assert covariance == pytest.approx(
            math.sqrt((s0 * s1) ** 2 + eps**2 / 4) - eps / 2, rel=max(1e-6, 20 * self.tol)
        )

    def test_large_eps_is_independent_and_small_eps_a_permutation(self, shared_data: Path) -> None:
        """Pairs of a benchmark whose map is known, in another order."""
        pairs = np.load(shared_data / "w2_benchmark" / "pairs.npz")
        n = 300
        shuffle = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        x0, x1 = torch.from_numpy(pairs["x_2"][:n]), torch.from_numpy(pairs["y_2"][:n])[shuffle]
        std = cost_std(x0, x1)
        wide = self.solve(Problem(x0, x1, 1000 * std))
        assert (self.plan(wide) - 1 / n**2).abs().sum() < 1e-2
        assert wide.report.sharpness == pytest.approx(1, abs=1e-3)
        sharp = self.solve(Problem(x0, x1, 1e-3 * std), tol=1e-3)
        assert sharp.report.converged
        assert (shuffle[self.plan(sharp).argmax(1)] == torch.arange(n)).double().mean() > 0.9
        assert sharp.report.sharpness < 0.1

    def test_offsets_move_potentials_only(self) -> None:
        """Data 1e4 away from the origin couple as the same data, rounded as they are, do at the origin in float64."""
        far = blobs(150, 150, 2, rel_eps=0.05, offset=1e4, dtype=self.dtype)
        home = Problem(far.x0.double() - 1e4, far.x1.double() + 1e4, far.eps)
        truth = solve_sinkhorn(home, tol=1e-7)
        distance = self.plan(self.solve(far)) - dense(home, truth.f, truth.g).plan
        assert distance.abs().sum() < max(1e-3, 100 * self.tol)

    @pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 1)])
    def test_single_rows(self, n: int, m: int) -> None:
        coupling = self.solve(replace(blobs(n, m, 1, rel_eps=1.0), eps=1.0))
        plan = self.plan(coupling)
        assert torch.allclose(plan, torch.full_like(plan, 1 / (n * m)), atol=1e-6)
        assert coupling.report.sharpness == pytest.approx(0 if n == m else 1, abs=1e-6)
        assert coupling.draw(uniforms(n).to(self.device)).max() < m

    def test_duplicates_share_alike(self) -> None:
        problem = blobs(50, 25, 2, rel_eps=0.05)
        once, both = self.solve(problem), self.solve(replace(problem, x1=problem.x1.repeat(2, 1)))
        halves = self.plan(both).reshape(50, 2, 25)
        assert torch.allclose(halves[:, 0], halves[:, 1], atol=self.tol)
        assert (halves.sum(1) - self.plan(once)).abs().sum() < 100 * self.tol

    def test_small_eps_is_what_it_says_in_float64(self) -> None:
        coupling = self.solve(blobs(300, 300, 2, rel_eps=1e-3), tol=1e-3)
        error = (self.plan(coupling).sum(0) - 1 / 300).abs().sum().item()
        assert coupling.report.converged
        assert error == pytest.approx(coupling.report.target_error, abs=1e-3)

    @pytest.mark.parametrize("rel_eps", [1.0, 0.03, 0.001])
    def test_operations_are_those_of_a_plain_loop(self, rel_eps: float) -> None:
        """Log-sums, marginal, entropies, large entries, argmax and draws at an uneven potential."""
        n, m, keep = 120, 600, 20
        problem = replace(blobs(n, m, 2, rel_eps), b=random_weights(m, 100, 3))
        g = (
            0.1
            * problem.eps
            / rel_eps
            * torch.randn(m, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        )
        given = self.given(problem)
        loop = by_rows(given, g)
        backend, logits, gamma = self.at(problem, g)
        a = given.weights()[0]
        share = RowPartition(n, m, a.device)
        with Workers(a.device) as workers:
            swept = backend.sweep(logits, gamma, a, share, workers, keep=keep, entropies=True)
            short = backend.sweep(logits, gamma, a, share, workers)
        rounding = 8 * torch.finfo(self.dtype).eps * float(np.abs(loop.logits).max())
        kernel = kernel_of(given)
        columns = loop.conditional.mean(0)
        assert (
            np.abs((kernel.f(swept.phi, given.eps).cpu().numpy() / -given.eps / math.log(2)) - loop.phi).max()
            < rounding
        )
        assert np.abs(swept.columns.cpu().numpy() - columns).sum() < rounding
        assert np.abs(short.columns.cpu().numpy() - columns).sum() < rounding
        assert np.abs(swept.bits.cpu().numpy() - loop.bits).max() < rounding * math.log2(m)

        i, j, logit = (part.cpu().numpy() for part in (swept.entries.i, swept.entries.j, swept.entries.logits))
        kept = np.zeros((n, m), dtype=bool)
        kept[i, j] = True
        assert kept.sum() == len(i) <= 4 * keep * n
        assert np.abs(np.exp2(logit) - loop.conditional[i, j]).max() < rounding
        depth = loop.conditional / loop.conditional.max(1, keepdims=True)
        assert depth[~kept].max() < depth[kept].min() * 2**rounding

        best = backend.argmax(logits).cpu().numpy()
        assert (depth[np.arange(n), best] > 2**-rounding).all()

        u = uniforms(n)
        drawn = backend.draw(logits, u.to(self.device)).cpu().numpy()
        ends = loop.conditional.cumsum(1)
        rows = np.arange(n)
        assert (ends[rows, drawn] > u.numpy() - rounding).all()
        assert (ends[rows, drawn] - loop.conditional[rows, drawn] < u.numpy() + rounding).all()

    def test_extreme_uniforms_draw_possible_partners(self) -> None:
        problem = replace(blobs(64, 300, 2, rel_eps=0.01), b=random_weights(300, 150, 2))
        backend, logits, _ = self.at(problem, torch.zeros(300, dtype=torch.float64))
        for u in (0.0, float(np.nextafter(1, 0))):
            drawn = backend.draw(logits, torch.full((64,), u, dtype=torch.float64, device=self.device)).cpu()
            assert (problem.b[drawn] > 0).all()

    def test_frequencies_are_those_of_the_plan(self) -> None:
        """Chi-square of 10,000 draws for a source point; 1e-4 rejects a right sampler once in 10,000 seeds."""
        problem, g = blobs(2, 600, 2, rel_eps=0.5), torch.zeros(600, dtype=torch.float64)
        backend, logits, _ = self.at(problem, g)
        first = torch.zeros(10_000, dtype=torch.int64, device=self.device)
        logits = logits.restrict(first, torch.arange(600, device=self.device))
        counts = backend.draw(logits, uniforms(10_000).to(self.device)).bincount(minlength=600).cpu().numpy()
        expected = by_rows(self.given(problem), g).conditional[0] * 10_000
        rare = expected < 5
        pooled = [np.append(kind[~rare], kind[rare].sum()) for kind in (counts, expected)]
        assert chisquare(*pooled).pvalue > 1e-4

    def test_draws_do_not_depend_on_tiles_or_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        backend, logits, _ = self.at(blobs(1000, 900, 2, rel_eps=0.1), torch.zeros(900, dtype=torch.float64))
        u = uniforms(1000).to(self.device)
        reference = backend.draw(logits, u)
        usual = torch.get_num_threads()
        for rows, threads in ((16, 1), (48, 3), (1000, 2)):
            monkeypatch.setattr(tiling, "tile_rows", lambda m, device, rows=rows: rows)
            torch.set_num_threads(threads)
            try:
                assert torch.equal(backend.draw(logits, u), reference)
            finally:
                torch.set_num_threads(usual)

    def test_bits_do_not_depend_on_threads(self) -> None:
        problem = blobs(1300, 700, 2, rel_eps=0.05)
        usual = torch.get_num_threads()
        couplings = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            try:
                couplings.append(self.solve(problem, tol=1e-2))
                assert torch.get_num_threads() == threads
            finally:
                torch.set_num_threads(usual)
        one, three = couplings
        assert torch.equal(one.g, three.g)
        assert torch.equal(one.f, three.f)
