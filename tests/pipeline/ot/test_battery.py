"""The battery over every backend that this machine can run, and how a backend is chosen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.battery import Battery
from support.ot_problems import blobs

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot import Problem, solve_for_sharpness, solve_sinkhorn
from flowpairs.pipeline.ot.backends.choose import choose
from flowpairs.pipeline.ot.backends.flash import Flash
from flowpairs.pipeline.ot.backends.keops import KeOps
from flowpairs.pipeline.ot.backends.protocol import TORCH, Backend

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


class TestTorchOnCuda(Battery):
    pytestmark = gpu
    name = "torch"
    device = "cuda"


class TestKeOpsOnCuda(Battery):
    pytestmark = gpu
    name = "keops"
    device = "cuda"


class TestFlashOnCuda(Battery):
    pytestmark = gpu
    name = "flash"
    device = "cuda"
    features = 32

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("flash_sinkhorn")


def test_backends_are_backends() -> None:
    assert all(isinstance(backend, Backend) for backend in (TORCH, KeOps(), Flash()))


def test_auto_is_torch_on_a_cpu() -> None:
    problem = blobs(5, 5, 2, 1.0)
    assert choose("auto", problem) is choose("torch", problem) is TORCH


@pytest.mark.parametrize(
    ("name", "problem", "words"),
    [
        ("keops", Problem(torch.ones(3, 2), torch.ones(4, 2), 1.0, cost=torch.cdist), "'keops': a cost given as"),
        ("flash", Problem(torch.ones(3, 2), torch.ones(4, 2), 1.0, cost=torch.cdist), "'flash': a cost given as"),
        ("flash", Problem(torch.ones(3, 2), torch.ones(4, 2), 1.0), "'flash': it needs CUDA; give backend torch"),
    ],
)
def test_backends_that_cannot_serve_are_refused(name: str, problem: Problem, words: str) -> None:
    for solve in (solve_sinkhorn, lambda given, backend: solve_for_sharpness(given, 0.5, backend=backend)):
        with pytest.raises(InputError, match=f"coupling.backend={words}"):
            solve(problem, backend=name)


def test_a_cache_of_keops_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    """As a process leaves it that is killed while it ends."""
    code = "from flowpairs.pipeline.ot.backends.keops import _import; _import('pykeops.torch')"
    for _ in range(2):
        environment = os.environ | {"KEOPS_CACHE_FOLDER": str(tmp_path)}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL)
        notes = list(tmp_path.rglob("*_cache.pkl"))
        assert notes
        for note in notes:
            note.write_bytes(note.read_bytes()[:-1])
