"""The script that measures a CUDA device, run whole on the CPU, and where hardly anything is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = "benchmarks/gpu.py"
BARE = """
import runpy, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name == "flowpairs" or name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nothing())
sys.argv = {arguments}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ABSENT = {"jaxtyping", "ray", "pykeops", "pydantic", "scipy", "ot", "pytest", "flash_sinkhorn"}


def results(command: list[str], path: Path) -> dict[str, dict]:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    parts: dict[str, dict] = json.loads(path.read_text())["parts"]
    assert all(name in done.stdout for name in parts)
    assert not [(name, part) for name, part in parts.items() if "failed" in part or "stopped" in part]
    return parts


@pytest.mark.slow
def test_every_part_runs_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    parts = results([SCRIPT, "--device", "cpu", "--small", "--output", str(path)], path)
    solved = {name: part for name, part in parts.items() if name.startswith("solve") and "missing" not in part}
    assert len(solved) >= 4
    assert all(part["error"] < 1.1 * part["tol"] for part in solved.values())


def test_it_runs_from_a_working_tree_with_torch_alone(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    arguments = [SCRIPT, "--device", "cpu", "--small", "--output", str(path)]
    parts = results(["-c", BARE.format(absent=ABSENT, arguments=arguments)], path)
    assert parts["training"] == {"missing": "pydantic"}
    assert {"missing"} != parts["solve n=512 d=8 rel_eps=0.003 torch tiles"].keys() >= {"seconds", "error"}
    assert parts["noise"]["seconds"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gpu: torch sees no CUDA device here; ")
    assert done.stderr.count("\n") == 1
