"""The battery over every backend that this machine can run, and how a backend is chosen."""

from dataclasses import replace

import pytest
import torch
from support.battery import Battery
from support.ot_problems import blobs

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem, solve_for_sharpness, solve_sinkhorn
from flowpairs.pipeline.ot.backends.choose import choose
from flowpairs.pipeline.ot.backends.keops import KeOps
from flowpairs.pipeline.ot.backends.protocol import TORCH, Backend
from flowpairs.pipeline.ot.costs.formula import Formula

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class TestTorch(Battery):
    name = "torch"


class TestTorchInFloat64(Battery):
    name = "torch"
    dtype = torch.float64
    tol = 1e-8


@pytest.mark.skipif(KeOps().refusal(blobs(1, 1, 1, 1.0)) is not None, reason="KeOps needs a C++ compiler")
class TestKeOps(Battery):
    name = "keops"


class Formulas(Battery):
    """Half the squared distance as a formula, whose plan is that of the dot product."""

    name = "keops"
    features = 2
    distance_factor = 0.5

    def given(self, problem: Problem) -> Problem:
        return replace(super().given(problem), cost=Formula("SqNorm2(X - Y) / 2"))


@pytest.mark.skipif(KeOps().refusal(blobs(1, 1, 1, 1.0)) is not None, reason="KeOps needs a C++ compiler")
class TestFormulas(Formulas):
    pass


class TestFormulasOnTorch(Formulas):
    name = "torch"


class TestFormulasOnCuda(Formulas):
    pytestmark = gpu
    device = "cuda"


class TestTorchOnCuda(Battery):
    pytestmark = gpu
    name = "torch"
    device = "cuda"


class TestKeOpsOnCuda(Battery):
    pytestmark = gpu
    name = "keops"
    device = "cuda"


def test_backends_are_backends() -> None:
    assert all(isinstance(backend, Backend) for backend in (TORCH, KeOps()))


def test_auto_is_torch_but_for_formulas() -> None:
    problem = blobs(5, 5, 2, 1.0)
    for cost in ("dot", "sqeuclidean", torch.cdist):
        assert choose("auto", replace(problem, cost=cost)) is TORCH
    formula = replace(problem, cost=Formula("Norm2(X - Y)"))
    assert isinstance(choose("auto", formula), KeOps)
    assert choose("torch", formula) is TORCH


@pytest.mark.parametrize(
    ("name", "problem", "words"),
    [
        ("keops", Problem(torch.ones(3, 2), torch.ones(4, 2), 1.0, cost=torch.cdist), "'keops': a cost given as"),
        ("flash", Problem(torch.ones(3, 2), torch.ones(4, 2), 1.0), "'flash': unknown; give auto, torch or keops"),
    ],
)
def test_backends_that_cannot_serve_are_refused(name: str, problem: Problem, words: str) -> None:
    for solve in (solve_sinkhorn, lambda given, backend: solve_for_sharpness(given, 0.5, backend=backend)):
        with pytest.raises(InputError, match=f"coupling.backend={words}"):
            solve(problem, backend=name)
