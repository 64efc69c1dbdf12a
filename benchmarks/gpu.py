"""What a CUDA device does: its tests, solves beside peers, a semi-discrete round, a training minute; `make gpu`.

    python benchmarks/gpu.py [--output docs/gpu-results.json] [--device cpu --small]

It needs torch, and from a working tree no more: parts that need other packages say which one is missing. Each part is
caught apart, and the file is written after each. Everybody gets the same points and eps, float32 without TensorFloat-32
and the same tolerance; the error of the target marginal is measured afterwards by a plain loop in float64.
Seconds are of a second call where the first may have compiled something.
"""

import argparse
import importlib
import json
import math
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
TOL = 1e-3
PATIENCE = 20.0  # seconds of a solve by a peer


class Annotation:
    """Stands for every shape of jaxtyping where that is not installed."""

    def __class_getitem__(cls, _: Any) -> Any:
        return Any


def find_project() -> None:
    """Make `flowpairs` importable from the working tree where it is not installed, and do without jaxtyping."""
    try:
        importlib.import_module("jaxtyping")
    except ModuleNotFoundError:
        stand_in: Any = types.ModuleType("jaxtyping")
        stand_in.__getattr__ = lambda name: Annotation
        sys.modules["jaxtyping"] = stand_in
    try:
        importlib.import_module("flowpairs.pipeline")
    except ModuleNotFoundError:
        package = types.ModuleType("flowpairs")
        package.__path__ = [str(ROOT)]
        sys.modules["flowpairs"] = package


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and its seconds; what was queued on the device before does not count."""
    synchronize(device)
    started = time.perf_counter()
    found = work()
    synchronize(device)
    return found, time.perf_counter() - started


def points(n: int, d: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian noise, and 64 clusters whose variance falls with the coordinate."""
    from flowpairs.pipeline.blocks.device_noise import device_gaussian

    rows = torch.arange(n, device=device)
    scale = torch.arange(1, d + 1, device=device).float().rsqrt()
    centres = device_gaussian(1, rows[:64], d)
    return device_gaussian(0, rows, d), (2 * centres[rows % 64] + device_gaussian(2, rows, d)) * scale


def error_of(x0: torch.Tensor, x1: torch.Tensor, eps: float, g: torch.Tensor) -> float:
    """The L1 error of the target marginal that a potential leaves, by a loop in float64."""
    x0, x1, g = x0.double(), x1.double(), g.double().to(x0.device)
    columns = torch.zeros(len(x1), dtype=torch.float64, device=x0.device)
    for rows in x0.split(max(1, 2**26 // len(x1))):
        columns += torch.softmax(torch.addmm(g, rows, x1.T).div_(eps), 1).sum(0)
    return (columns / len(x0) - 1 / len(x1)).abs().sum().item()


def flash(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
    """flash-sinkhorn's kernel without TensorFloat-32, as benchmarks/sinkhorn_peers.py calls it."""
    importlib.import_module("flash_sinkhorn")
    return importlib.import_module("sinkhorn_peers").flash(x0, x1, eps)


def by(backend: Any) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """Our solver by one of its backends."""

    def solve(x0: torch.Tensor, x1: torch.Tensor, eps: float) -> torch.Tensor:
        from flowpairs.pipeline.ot import Problem, solve_sinkhorn

        if backend == "keops":
            importlib.import_module("pykeops")
        return solve_sinkhorn(Problem(x0, x1, eps), tol=TOL, backend=backend).g

    return solve


SOLVERS = {"torch tiles": by("torch"), "KeOps": by("keops"), "flash-sinkhorn": flash}


def solves(sizes: list[int], dims: list[int], device: torch.device) -> Iterator[tuple[str, Callable[[], dict]]]:
    """One part for every solver, size, dimension and eps."""

    def part(name: str, n: int, d: int, rel_eps: float) -> dict:
        from flowpairs.pipeline.ot import Problem

        x0, x1 = points(n, d, device)
        eps = Problem(x0, x1, 1.0).at(rel_eps).eps
        signal.alarm(0 if name == "auto" else math.ceil(3 * PATIENCE))
        solver = by("auto") if name == "auto" else SOLVERS[name]
        first, once = timed(device, lambda: solver(x0, x1, eps))
        g, seconds = (first, once) if once > PATIENCE else timed(device, lambda: solver(x0, x1, eps))
        signal.alarm(0)
        return {"seconds": seconds, "first_seconds": once, "error": error_of(x0, x1, eps, g), "tol": TOL}

    for n in sizes:
        for d in dims:
            for rel_eps in (0.1, 0.003):
                for name in ("auto", *SOLVERS):
                    what = f"solve n={n} d={d} rel_eps={rel_eps:g} {name}"
                    yield what, lambda case=(name, n, d, rel_eps): part(*case)


def noise(rows: int, dim: int, device: torch.device) -> dict:
    """The pair format's noise, held to numpy's bits, and its rate."""
    from flowpairs.pipeline.blocks.device_noise import device_gaussian
    from flowpairs.pipeline.blocks.noise import gaussian

    numbers = torch.arange(rows, device=device)
    device_gaussian(0, numbers, dim)
    found, seconds = timed(device, lambda: device_gaussian(0, numbers, dim))
    same = found[:100].cpu().numpy().tobytes() == gaussian(0, 0, 100, dim).tobytes()
    if not same:
        raise AssertionError("the noise differs from numpy's")
    return {"seconds": seconds, "GB_a_second": 4e-9 * rows * dim / seconds}


def semidiscrete(ids: int, dim: int, backend: str, device: torch.device) -> dict:
    """A semi-discrete potential to a coarse chi-square, which takes a round or a few, and the partners of points.

    The rounding of scores by the kernels is what a GPU is to show: largest error, as a share of its bound.
    """
    from flowpairs.pipeline.blocks.device_noise import device_gaussian
    from flowpairs.pipeline.blocks.noise import Stream
    from flowpairs.pipeline.ot import Assignment, Targets, solve_semidiscrete
    from flowpairs.pipeline.ot.semidiscrete.search import FusedSearch
    from flowpairs.pipeline.ot.tiles.tiling import Workers

    class Source:
        def __init__(self) -> None:
            self.dim = dim

        def points(self, first: int, count: int) -> torch.Tensor:
            return device_gaussian(0, torch.arange(first, first + count, device=device), dim, Stream.SOLVE)

    x, y = (side[:ids] for side in points(max(ids, 1024), dim, device))
    targets, solve = Targets(y.cpu(), device=device.type), {"chi2": 0.5, "backend": backend}
    solve_semidiscrete(targets, Source(), 0.0, max_rounds=1, **solve)
    found, seconds = timed(device, lambda: solve_semidiscrete(targets, Source(), 0.0, **solve))
    assignment, x = Assignment(y, found.g, 0.0, device=device.type, backend=backend), x.double()
    u = torch.zeros(len(x), dtype=torch.float64)
    assignment.partners(x[:256], u[:256])
    partners, assigning = timed(device, lambda: assignment.partners(x, u))
    few, search = x[:256], assignment.search
    scores = few @ assignment.y[:].T + assignment.gamma
    if not torch.equal(partners[:256], scores.argmax(1)):
        raise AssertionError("partners differ from those of float64")
    with Workers(device) as workers:
        lead = torch.cat([search.largest(some, workers)[1] for some in x.split(search.size)])
    result = {"seconds": seconds, "rounds": found.report.rounds, "points": found.report.points}
    result |= {"converged": bool(found.report.converged), "assign_seconds": assigning}
    result["in_doubt"] = (lead <= 2 * search.error(x)).double().mean().item()
    if isinstance(search, FusedSearch):
        _, best, _ = search._logits(few).largest(slice(0, len(few)))
        result["error_of_bound"] = ((best - scores.amax(1)).abs() / search.error(few)).max().item()
    return result


def training(seconds: float, device: torch.device) -> dict:
    """Steps of a network on pairs of 3,072 numbers in bfloat16, for some seconds."""
    from flowpairs.training.models.mlp import MLP
    from flowpairs.training.objectives.loss import flow_matching_loss

    x0, x1 = points(4096, 3072, device)
    model = MLP(3072, 1024 if device.type == "cuda" else 64, 4, 0).to(device)
    optimiser, steps, losses = torch.optim.AdamW(model.parameters(), 1e-4), 0, list[torch.Tensor]()
    synchronize(device)
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        at = (torch.arange(1024, device=device) + 1024 * steps) % len(x0)
        with torch.autocast(device.type, torch.bfloat16):
            loss = flow_matching_loss(model, {"x0": x0[at], "x1": x1[at]})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
        steps += 1
        synchronize(device)
    elapsed = time.perf_counter() - started
    return {"seconds": elapsed, "pairs_a_second": 1024 * steps / elapsed, "loss": losses[-1].item()}


def battery(*, small: bool) -> dict:
    """The tests marked `gpu`, in a process of their own; without a device they say that they were skipped."""
    importlib.import_module("pytest")
    where = "tests/pipeline/blocks/test_device_noise.py" if small else "tests"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "gpu", "-p", "no:cacheprovider", where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        raise AssertionError(f"tests: {' '.join((done.stdout + done.stderr).split())[-400:]}")
    return {"says": done.stdout.strip().splitlines()[-1]}


def attempted(work: Callable[[], dict]) -> dict:
    """What a part found, or why it did not."""
    try:
        return work()
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    except TimeoutError:
        return {"stopped": f"not done in {3 * PATIENCE:g} s"}
    except Exception as error:  # whatever it is, the other parts run
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        signal.alarm(0)


def stop(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="the same path on problems of a second")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "gpu-results.json")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu: torch sees no CUDA device here; run it where one is, or the same path by --device cpu --small")
    find_project()
    signal.signal(signal.SIGALRM, stop)
    torch.backends.cuda.matmul.allow_tf32 = False
    device, small = torch.device(options.device), options.small
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    sizes, dims = ([512], [8]) if small else ([2**16, 2**18], [64, 500])
    sides = (200, 8) if small else (2**17, 500)
    parts: list[tuple[str, Callable[[], dict]]] = [
        ("noise", lambda: noise(*((200, 784) if small else (2**15, 12_288)), device)),
        *(
            (f"semi-discrete {backend}", lambda backend=backend: semidiscrete(*sides, backend, device))
            for backend in ("auto", "torch")
        ),
        ("training", lambda: training(0.5 if small else 60.0, device)),
        ("tests", lambda: battery(small=small)),
        *solves(sizes, dims, device),
    ]
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "small": small, "parts": {}}
    print(f"{name}, torch {torch.__version__}")
    for what, work in parts:
        found = results["parts"][what] = attempted(work)
        said = [f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()]
        print(f"{what:48s} {', '.join(said)}", flush=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
