"""Sinkhorn solves on a GPU, each backend on the same points, with what they took.

    python benchmarks/gpu.py [--device cuda] [--small] [--out docs/gpu-results.json]

Each measurement is written as soon as it is there, and one that fails is recorded with its error beside the others.
The target error is what the backend reports of itself. It needs this package, not Ray; KeOps where it is measured.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flowpairs.pipeline.ot import Problem, solve_sinkhorn

FULL = (2**16, 2**18), (64, 500), (0.1, 0.003)  # rows, features, rel_eps
SMALL = (512,), (8,), (0.1,)
BACKENDS = "torch", "keops"


def solve(n: int, d: int, rel_eps: float, backend: Any, device: str) -> dict[str, Any]:
    """Solve one block from Gaussian noise to four Gaussian clusters; the second of two solves is timed."""
    draw = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(n, d, generator=draw) for _ in range(2))
    x1 += 2 * torch.randn(4, d, generator=draw)[torch.arange(n) % 4]
    block = Problem(x0.to(device), x1.to(device), 1.0).at(rel_eps)
    for _ in range(2):
        _wait(device)
        started = time.perf_counter()
        found = solve_sinkhorn(block, backend=backend)
        _wait(device)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "passes": found.report.passes, "reported_error": found.report.target_error}


def battery(device: str) -> dict[str, Any]:
    """Run the tests that need a GPU."""
    assert device == "cuda"
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n0", "-m", "gpu"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-500:])
    return {"summary": done.stdout.splitlines()[-1]}


def measure(parts: dict[str, Callable[[], dict[str, Any]]], device: str, out: Path) -> dict[str, Any]:
    """Do each part and write what is known after each; an error is a result, too."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "parts": {}}
    for part, work in parts.items():
        try:
            found = work()
        except Exception as error:  # whatever it is, it must not lose the other parts
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        results["parts"][part] = found
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{part:40}", "  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return results


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure what the options ask for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options.add_argument("--small", action="store_true", help="sizes that a CPU solves in seconds")
    options.add_argument("--out", type=Path, default=Path("docs/gpu-results.json"))
    given = options.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device=cuda: torch finds no CUDA device; run it where one is, or give --device cpu --small")
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    for n, d, rel_eps, backend in itertools.product(*(SMALL if given.small else FULL), BACKENDS):
        name = f"sinkhorn n={n} d={d} rel_eps={rel_eps:g} {backend}"
        parts[name] = lambda case=(n, d, rel_eps, backend): solve(*case, given.device)
    if given.device == "cuda":
        parts["battery"] = lambda: battery(given.device)
    measure(parts, given.device, given.out)


if __name__ == "__main__":
    main()
