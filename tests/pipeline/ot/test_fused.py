"""The fused kernels through Triton's interpreter, which a process has from its start or not at all."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowpairs.pipeline.ot.backends.fused.halves import halved

HERE = Path(__file__)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MISSING = importlib.util.find_spec("triton") is None
needs_triton = pytest.mark.skipif(MISSING, reason="triton is not installed (pip install --no-deps triton==3.7.0)")
interpreted = pytest.mark.skipif(MISSING or not INTERPRETED, reason="runs in the interpreter's own process")


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="is that process")
def test_everything_here_through_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(HERE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


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
    ref = (torch.logsumexp(logits * 0.6931471805599453, 1) / 0.6931471805599453 + torch.rand(n) * 6 - 3).float()
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
    assert torch.allclose(moment.double(), (w * shifted).view(n, 3, 100).sum(2), rtol=2e-4, atol=1e-5)
    assert torch.allclose(columns.double() / 2**62, (w * weight.double()[:, None]).sum(0), rtol=5e-5, atol=1e-9)
    padded = torch.nn.functional.pad(shifted.view(n, 3, 100), (0, 28), value=-1e30).view(n, 3, 4, 32)
    for t in range(4):
        assert torch.equal((flags[:, :, 0] >> t & 1).bool(), padded[:, :, t].amax(2) >= -6)
