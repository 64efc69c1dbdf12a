"""How a solve starts and ends, and what it refuses; what it finds is held to the truth in battery.py."""

import math

import pytest
import torch
from support.ot_problems import blobs, dense

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem, solve_sinkhorn


def test_warm_start_is_where_it_says() -> None:
    problem = blobs(300, 300, 4, rel_eps=0.05)
    cold = solve_sinkhorn(problem)
    warm = solve_sinkhorn(problem, g0=cold.g)
    assert warm.report.passes == 1
    assert warm.report.target_error == pytest.approx(cold.report.target_error, rel=0.05)


def test_stopping_early_is_told() -> None:
    problem = blobs(60, 60, 4, rel_eps=0.01, dtype=torch.float64)
    seen: list[tuple[int, float]] = []
    coupling = solve_sinkhorn(problem, tol=1e-12, max_passes=3, progress=lambda *now: seen.append(now))
    report = coupling.report
    error = (dense(problem, coupling.f, coupling.g).plan.sum(0) - 1 / 60).abs().sum().item()
    assert not report.converged
    assert report.passes <= 3
    assert report.target_error == pytest.approx(error, rel=1e-2)
    assert seen[-1] == (report.passes, pytest.approx(report.target_error, rel=1e-6))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": 0.0}, "eps=0.0"),
        ({"eps": math.nan}, "eps=nan"),
        ({"x1": torch.zeros(0, 3)}, "x1: shape"),
        ({"x1": torch.zeros(5, 3, dtype=torch.float64)}, "make them agree"),
        ({"x0": torch.full((5, 3), math.nan)}, "x0: holds values"),
        ({"b": torch.full((5,), 0.3)}, "b: weights"),
        ({"a": torch.tensor([2.0, -1.0, 0.0, 0.0, 0.0])}, "a: weights"),
    ],
)
def test_bad_problems_are_refused_by_name(change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve_sinkhorn(Problem(**{"x0": torch.randn(5, 3), "x1": torch.randn(5, 3), "eps": 1.0} | change))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tol": 0.0}, "tol=0.0"), ({"max_passes": 0}, "max_passes=0"), ({"g0": torch.zeros(3)}, "g0: shape")],
)
def test_bad_options_are_refused_by_name(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solve_sinkhorn(Problem(torch.randn(5, 3), torch.randn(5, 3), 1.0), **options)
