"""Tests of Triton kernels through its interpreter, which a process has from its start or not at all."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MISSING = importlib.util.find_spec("triton") is None
needs_triton = pytest.mark.skipif(MISSING, reason="triton is not installed (pip install --no-deps triton==3.7.0)")
interpreted = pytest.mark.skipif(MISSING or not INTERPRETED, reason="runs in the interpreter's own process")
outside = pytest.mark.skipif(INTERPRETED, reason="is that process")


def run_interpreted(file: str) -> None:
    """Run a file of tests in a process that has the interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(Path(file))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
