"""Noise off the CPU: numpy's bits by torch on any device and by the kernel, which compiles to no fused operation."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.device_noise import device_gaussian
from flowpairs.pipeline.blocks.features import Features

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton: pip install --no-deps triton")
CASES = [(0, 0, 3, 1024), (2**62 + 11, 123_456_789, 2, 520), (7, 2**30 + 5, 3, 784), (1, 5, 4, 13), (1, 2**39, 2, 1)]

INTERPRETED = """
import numpy as np, torch
from flowpairs.pipeline.blocks import noise, noise_kernel
for seed, first, rows, dim in {cases}:
    for stream in noise.Stream.NOISE, noise.Stream.SOLVE:
        found, chosen = torch.full((rows, dim), torch.nan), torch.arange(first, first + rows).flip(0)
        noise_kernel.launch(found, chosen, seed, int(stream))
        expected = noise.gaussian(seed, first, rows, dim, stream)[::-1]
        assert found.numpy().tobytes() == np.ascontiguousarray(expected).tobytes(), (seed, dim)
print("same bits")
"""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_rows_on_a_device_are_numpys(case: tuple[int, int, int, int], device: str) -> None:
    seed, first, rows, dim = case
    found = device_gaussian(seed, torch.arange(first, first + rows, device=device), dim).cpu().numpy()
    np.testing.assert_array_equal(found.view(np.uint32), noise.gaussian(*case).view(np.uint32))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pca", [None, 7])
def test_features_on_a_device_are_rounded_float64_sums(pca: int | None, device: str) -> None:
    basis = None if pca is None else np.linalg.qr(noise.gaussian(1, 0, 100, pca))[0].astype(np.float32)
    features = Features(np.ones(100, np.float32), basis)
    found = features.of_noise_on(torch.device(device), 3, 1_000, 5_000).cpu().numpy()  # more than a chunk
    exact = features.exactly(noise.gaussian(3, 1_000, 5_000, 100))
    np.testing.assert_allclose(found, exact, rtol=2.0**-23, atol=1e-13)
    np.testing.assert_allclose(found, features.of_noise(3, 1_000, 5_000), atol=1e-5)


@TRITON
def test_the_kernel_makes_numpys_bits_in_the_interpreter() -> None:
    script = [sys.executable, "-c", INTERPRETED.format(cases=CASES)]
    done = subprocess.run(
        script, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "same bits\n", done.stderr


@TRITON
@pytest.mark.parametrize("chip", [80, 89, 90])
def test_the_compiled_kernel_contracts_nothing(chip: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from flowpairs.pipeline.blocks.noise_kernel import COUNTERS, gaussian_kernel

    names = ("out", "rows", "seed", "stream", "width", "dim")
    types = dict(zip(names, ("*fp32", "*i64", "i64", "i32", "i32", "i32"), strict=True))
    types |= {"ODD": "constexpr", "COUNT": "constexpr"}
    source = ASTSource(gaussian_kernel, types, {(6,): True, (7,): COUNTERS}, {})

    def code(*, fusion: bool) -> str:
        options = {"num_warps": 4, "enable_fp_fusion": fusion}
        ptx: str = triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options).asm["ptx"]
        return ptx

    ptx = code(fusion=False)
    assert "fma." not in ptx
    assert set(re.findall(r"(?:div|sqrt)\.(\w+)\.", ptx)) == {"rn"}
    assert "fma.rn" in code(fusion=True)  # so the option is what forbids them
