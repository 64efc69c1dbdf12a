"""Costs as formulas: what is one, what it comes to by numpy, by torch and compiled, and compilers that are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.ot_problems import blobs, by_rows, dense, random_weights, uniforms

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem, solve_exact, solve_sinkhorn
from flowpairs.pipeline.ot.backends import compiled
from flowpairs.pipeline.ot.backends.keops import KeOps
from flowpairs.pipeline.ot.costs.formula import Formula
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers, column_groups

needs_compiler = pytest.mark.skipif(KeOps().refusal(blobs(1, 1, 1, 1.0)) is not None, reason="KeOps needs a compiler")

# Every operation, and what it means, for x [n, 1, 5] and y [m, 5].
MEANINGS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Sum(Abs(X - Y))": lambda x, y: np.abs(x - y).sum(2),
    "Sum(Cos(X) * Sin(+Y))": lambda x, y: (np.cos(x) * np.sin(y)).sum(2),
    "Sum(Exp(-Square(X - Y)))": lambda x, y: np.exp(-((x - y) ** 2)).sum(2),
    "Sum(Log(1 + X * Y))": lambda x, y: np.log(1 + x * y).sum(2),
    "Sum(ReLU(X - Y)) - Sum(Sign(Y - X))": lambda x, y: (np.maximum(x - y, 0) - np.sign(y - x)).sum(2),
    "Sqrt(SqNorm2(X - Y))": lambda x, y: np.sqrt(((x - y) ** 2).sum(2)),
    "Norm2(Y / X)": lambda x, y: np.sqrt(((y / x) ** 2).sum(2)),
    "Max(Abs(X - Y)) + Min(X * Y)": lambda x, y: np.abs(x - y).max(2) + (x * y).min(2),
    "-(X | Y)": lambda x, y: -(x * y).sum(2),
    "Clamp(SqNorm2(X - Y), 0.2, 1.5)": lambda x, y: np.clip(((x - y) ** 2).sum(2), 0.2, 1.5),
    "Sum(Clamp(X - Y, -.1, Elem(X, 0)))": lambda x, y: np.minimum(np.maximum(x - y, -0.1), x[..., :1]).sum(2),
    "Elem(X, 3) * Elem(Y, 1) ** 3": lambda x, y: x[..., 3] * y[..., 1] ** 3,
    "Sum(Extract(X, 1, 3) / Extract(Y, 2, 3)) * 1e-1": lambda x, y: 0.1 * (x[..., 1:4] / y[..., 2:5]).sum(2),
    "1000 * Sum((X - 2 * Y) ** 2)": lambda x, y: 1000 * ((x - 2 * y) ** 2).sum(2),
}
ALL = " + ".join(f"{1 + k / 7} * ({text})" for k, text in enumerate(MEANINGS))


def points(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, (n, 5))


def meaning(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What `ALL` comes to."""
    return sum((1 + k / 7) * cost(x[:, None], y) for k, cost in enumerate(MEANINGS.values()))


@pytest.mark.parametrize("text", MEANINGS)
def test_operations_mean_what_they_say(text: str) -> None:
    x, y = points(7, 0), points(9, 1)
    found = Formula(text)(torch.from_numpy(x), torch.from_numpy(y))
    assert np.allclose(found, MEANINGS[text](x[:, None], y), rtol=1e-13, atol=1e-13)
    swapped = Formula(text).swapped()(torch.from_numpy(y), torch.from_numpy(x))
    assert torch.equal(swapped.T, found)


@needs_compiler
def test_compiled_operations_keep_the_digits_of_float32() -> None:
    """All operations in one formula, whose logits span thousands of bits, against a plain float64 loop."""
    x, y = points(300, 0), points(200, 1)
    b = random_weights(200, 20, 2)
    problem = Problem(torch.from_numpy(x).float(), torch.from_numpy(y).float(), 3.0, b=b, cost=Formula(ALL))
    exact = replace(problem, cost=lambda x, y: torch.from_numpy(meaning(x.numpy(), y.numpy())))
    g = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loop = by_rows(exact, g)
    assert np.ptp(loop.logits) > 1000
    rounding = 8 * torch.finfo(torch.float32).eps * np.abs(loop.logits).max()
    kernel, a = kernel_of(problem), problem.weights()[0]
    gamma = kernel.gamma(g, problem.eps)
    logits = kernel.bound(gamma, problem.eps)
    with Workers(a.device) as workers:
        swept = KeOps().sweep(logits, gamma, a, RowPartition(300, 200, a.device), workers, keep=16, entropies=True)
    assert np.abs(swept.phi.numpy() - loop.phi).max() < rounding
    assert np.abs(swept.columns.numpy() - loop.conditional.mean(0)).sum() < rounding
    assert np.abs(swept.bits.numpy() - loop.bits).max() < rounding * np.log2(200)
    assert swept.entries is not None
    assert swept.groups is not None
    groups = np.stack([loop.conditional[:, cut].sum(1) for cut in column_groups(200)], 1)
    assert np.abs(swept.groups.numpy() - groups).max() < rounding
    i, j = swept.entries.i.numpy(), swept.entries.j.numpy()
    assert np.abs(np.exp2(swept.entries.logits.numpy()) - loop.conditional[i, j]).max() < rounding
    assert set(enumerate(loop.conditional.argmax(1))) <= set(zip(i, j, strict=True))
    u = uniforms(300)
    drawn, ends, rows = KeOps().draw(logits, u).numpy(), loop.conditional.cumsum(1), np.arange(300)
    assert (ends[rows, drawn] > u.numpy() - rounding).all()
    assert (ends[rows, drawn] - loop.conditional[rows, drawn] < u.numpy() + rounding).all()


@needs_compiler
def test_a_solve_is_that_of_the_same_function() -> None:
    """Of a cost that is not symmetric, with weights and zeros among them, on more columns than a chunk has."""
    formula = Formula("Sum(ReLU(X - Y)) + 0.25 * Sum(ReLU(Y - X))")

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        apart = x[:, None] - y
        return apart.relu().sum(2) + 0.25 * (-apart).relu().sum(2)

    problem = replace(blobs(300, 1100, 2, 1.0), a=random_weights(300, 30, 1), b=random_weights(1100, 90, 2))
    problem = replace(problem, x0=problem.x0.float(), x1=problem.x1.float())
    given = replace(problem, cost=formula).at(0.05)
    theirs = solve_sinkhorn(replace(problem, cost=function).at(0.05), tol=1e-4)
    truth = dense(theirs.problem, theirs.f, theirs.g).plan
    for backend in ("keops", "torch"):
        ours = solve_sinkhorn(given, tol=1e-4, backend=backend)
        assert (dense(given, ours.f, ours.g).plan - truth).abs().sum() < 1e-3
        assert ours.report.cost_coupled == pytest.approx(theirs.report.cost_coupled, rel=1e-4)
        back = ours.swapped()
        assert (given.b[ours.draw(uniforms(300))] > 0).all()
        assert back.draw(uniforms(1100)).max() < 300
        plan = dense(back.problem, back.f, back.g).plan
        assert (plan.T - truth).abs().sum() < 1e-3


def test_exact_couplings_take_formulas() -> None:
    problem = replace(blobs(40, 50, 2, 1.0), cost=Formula("Sum(Abs(X - Y))"))
    theirs = solve_exact(replace(problem, cost=lambda x, y: torch.cdist(x, y, p=1)))
    assert solve_exact(problem).report.cost_coupled == pytest.approx(theirs.report.cost_coupled, rel=1e-9)


def test_float32_costs_that_lack_digits_are_computed_in_float64() -> None:
    """A cost of a million with differences of one."""
    problem = replace(blobs(50, 50, 2, 1.0), cost=Formula("SqNorm2(X - Y) + 1e6"))
    problem = replace(problem, x0=problem.x0.float(), x1=problem.x1.float()).at(0.1)
    assert problem.cost_moments is not None
    coupling = solve_sinkhorn(replace(problem, eps=0.3), backend="torch")
    assert coupling.problem.x0.dtype == torch.float64
    truth = solve_sinkhorn(replace(problem, cost="sqeuclidean", cost_moments=None, eps=0.3).in_float64(), tol=1e-6)
    plans = [dense(found.problem, found.f, found.g).plan for found in (coupling, truth)]
    assert (plans[0] - plans[1]).abs().sum() < 1e-2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Sum(Abs(X - Y)", "cannot be read ('(' was never closed); give a formula of X and Y"),
        ("", "cannot be read"),
        ("X - Y", "comes to one number per feature for a pair, not to one cost; reduce it by Sum"),
        ("Extract(X - Y, 0, 2)", "comes to 2 numbers for a pair"),
        ("Sum(X)", "does not compare the two points; use the features X of one and Y of the other"),
        ("Sum(X - Z)", "holds 'Z', which is none of X, Y, Abs"),
        ("Sum(X @ Y)", "holds 'X @ Y'"),
        ("Sum(Tanh(X - Y))", "has no function Tanh; give one of Abs, Clamp"),
        ("Clamp(X | Y, 1)", "gives Clamp 2 arguments; it takes 3"),
        ("Sum(Extract(X, 0, 2) - Y)", "takes Subtract of terms of unlike sizes (2 and all features)"),
        ("1 | Norm2(X - Y) * X", "takes Scalprod of terms of unlike sizes"),
        ("Elem(Extract(X, 0, 2), 2) * Sum(Y)", "takes Elem up to 3 of a term of size 2"),
        ("Elem(X, Y)", "has 'Y' as a feature; give a whole number"),
        ("Sum(X - Y) ** 0.5", "has '0.5' as a power; give a whole number from 2 to 16"),
        ("Sum(X - Y) * 1e400", "holds '1e309', which is no number"),
        ("Sum(X - Y) * True", "holds 'True', which is no number"),
        ("Sum(X - Y) + 'a'", "which is no number"),
        ("__import__('os').system('true') + Sum(X - Y)", "holds "),
        ("Sum((lambda: X - Y)())", "holds "),
        ("Sum(X.T - Y)", "holds 'X.T'"),
        ("Sum(f=X - Y)", "holds "),
        ("(" * 300 + "X | Y" + ")" * 300, "cannot be read"),
        ("-" * 900 + "(X | Y)", "is nested too deeply"),
        ("Sum(X - Y)" + " + 1" * 300, "has 1210 characters; give at most 1000"),
    ],
)
def test_what_is_no_formula_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(InputError) as refusal:
        Formula(text)
    assert says in str(refusal.value)
    assert str(refusal.value).startswith("cost='keops:")


WORDS = [*"XY+-*/|(),20\x00", "**", "0.5", "1e400", "lambda:", "[0]", ".real", "not", ":=", "f'{X}'", "X-Y"]
WORDS += ["Sum(", "Norm2(", "Clamp(", "Elem(", "Extract(", "Abs(", "Sum(X-Y)", "(X|Y)", "Norm2(X)"]


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_any_text_is_a_formula_or_is_refused(words: list[str]) -> None:
    try:
        formula = Formula(" ".join(words))
    except InputError:
        return
    x, y = torch.from_numpy(points(3, 0)), torch.from_numpy(points(4, 1))
    assert formula(x, y).shape == (3, 4)
    assert torch.equal(formula.swapped()(y, x).T.isnan(), formula(x, y).isnan())


def test_points_that_do_not_fit_are_refused() -> None:
    few = "needs 4 features and the points have 2; give a formula of fewer"
    with pytest.raises(InputError, match=few):
        Problem(torch.ones(3, 2), torch.ones(4, 2), 1.0, cost=Formula("Elem(X, 3) - Elem(Y, 0)"))
    with pytest.raises(InputError, match="not finite for some of the points; keep arguments of Log"):
        Formula("Log(X | Y)").check_sample(-torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(InputError, match="returned values that are not finite"):
        solve_sinkhorn(Problem(-torch.ones(3, 2), torch.ones(4, 2), 1.0, cost=Formula("Log(X | Y)")))


def test_symmetric_costs_are_compiled_once() -> None:
    for text in ("Sum(Abs(X - Y))", "Norm2(X - Y) + 2 * (X | Y)", "Sum((X - Y) ** 2 * Abs(Elem(Y, 0) - Elem(X, 0)))"):
        assert Formula(text).compiled == Formula(text).swapped().compiled
    for text in ("Sum(X - Y)", "Sum(ReLU(X - Y))", "Sum((X - Y) ** 3)", "Sum(X / Y)"):
        assert Formula(text).compiled != Formula(text).swapped().compiled
    assert Formula("2 * (X | Y)").compiled[0] == Formula("3 * (X | Y)").compiled[0]


HALF = """#!/bin/sh
# A compiler that writes half a library and then takes for ever.
for word in "$@"; do [ "$before" = -o ] && out=$word; before=$word; done
case "$out" in *pykeops_cpp_*) echo half > "$out"; echo $$ > "$COMPILING"; exec sleep 600;; esac
exec g++ "$@"
"""
COMPILE = """
import torch
from flowpairs.pipeline.ot.backends.compiled import log_sum_formula
log_sum_formula("Scalprod(X,Y)", 0, 1, torch.float64, "cpu")
"""


@needs_compiler
def test_a_process_killed_while_it_compiles_breaks_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its compiler, which outlives it, goes on writing."""
    cache, compiling, compiler = tmp_path / "cache", tmp_path / "compiling", tmp_path / "half-g++"
    compiler.write_text(HALF)
    compiler.chmod(0o755)
    monkeypatch.setenv("FLOWPAIRS_KEOPS_CACHE", str(cache))
    environment = os.environ | {"CXX": str(compiler), "COMPILING": str(compiling)}
    killed = subprocess.Popen([sys.executable, "-c", COMPILE], env=environment)
    try:
        while not compiling.exists():
            assert killed.poll() is None
            time.sleep(0.05)
    finally:
        killed.kill()
        killed.wait()
    try:
        formula = compiled.log_sum_formula.__wrapped__("Scalprod(X,Y)", 0, 1, torch.float64, "cpu")  # waits for no lock
        x, one = torch.arange(3.0, dtype=torch.float64)[:, None], torch.ones(3, 1, dtype=torch.float64)
        found = formula(x, x, 0 * one, 0 * one, one, one[0])
    finally:
        os.kill(int(compiling.read_text()), signal.SIGKILL)
    assert torch.allclose(found[:, 0] + found[:, 1].log(), (x @ x.T).logsumexp(1))
    kept = [path for path in cache.rglob("*") if path.is_dir() and path.parent.parent == cache]
    assert len(kept) == 1, "one formula, and nothing of the killed process"
    assert sum(path.suffix == ".so" and path.stat().st_size > 1000 for path in kept[0].iterdir()) == 1
