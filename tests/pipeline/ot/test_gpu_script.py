"""The script of `make gpu`, small and on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu.py"


def test_it_measures_and_keeps_what_did_not_fail(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--small", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    parts = json.loads(out.read_text())["parts"]
    found = parts["sinkhorn n=512 d=8 rel_eps=0.1 torch"]
    assert found["reported_error"] < 1e-3
    assert found["seconds"] > 0
    assert len(parts) == 2  # KeOps is measured, or has its error, without the loss of the other


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_it_ends_with_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "--device=cuda: torch finds no CUDA device; run it where one is, or give --device cpu --small"
    )
    assert list(tmp_path.iterdir()) == []
