"""Formulas that KeOps compiles, and a cache of them that no killed process can break.

KeOps itself compiles into a folder that all processes share, straight to the names under which others look, so that one
that is killed meanwhile leaves half a library to all later ones. Here each process compiles in a folder of its own, and
a finished formula is put into the cache by renaming a folder, whole or not at all. A lock, which falls with its holder,
lets one process compile a formula while others wait for it.
"""

import atexit
import fcntl
import functools
import hashlib
import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError

Reduction = Callable[..., Tensor]


def obstacle(device: torch.device) -> str | None:
    """Explain why KeOps cannot compile for a device here; None if it can."""
    try:
        config = _pykeops().config
    except ImportError as error:
        return f"pykeops cannot be imported ({error})"
    if device.type == "cuda" and not config.gpu_available:
        return "pykeops finds no CUDA"
    if config.pykeops_base.get_cxx_compiler() is None:
        return "pykeops finds no C++ compiler"
    return None


@functools.cache
def log_sum_formula(cost: str, numbers: int, d: int, dtype: torch.dtype, device: str) -> Reduction:
    """Compile (t, sum_j W_j e^(z_ij - t_i), sum_j W_j e^(z_ij - t_i) z_ij), where t_i = max_j z_ij.

    z_ij = N_0 cost(X_i, Y_j) + P_i + Q_j. A call takes X [r, d], Y [c, d], P [r, 1], Q [c, 1], W [c, 1] and N
    [1 + numbers], and returns [r, 3].

    Args:
        cost: cost in KeOps' words, of X, Y and N.
        numbers: how many numbers the cost looks up in N, from N_1.
        d: features.
        dtype: float32 or float64.
        device: "cpu" or "cuda".

    Raises:
        InputError: the formula does not compile.
    """
    z = f"Add(Add(Mult(Elem(N,0),{cost}),P),Q)"
    aliases = [f"X=Vi({d})", f"Y=Vj({d})", "P=Vi(1)", "Q=Vj(1)", "W=Vj(1)", f"N=Pm({1 + numbers})"]
    genred = _pykeops().torch.Genred(
        z, aliases, reduction_op="Max_SumShiftExpWeight", axis=1, formula2=f"Concat(W,Mult(W,{z}))"
    )
    call = functools.partial(genred, backend="GPU_1D" if device == "cuda" else "CPU")  # one thread a row: same bits
    points, number = torch.ones(1, d, dtype=dtype, device=device), torch.ones(1, 1, dtype=dtype, device=device)
    with _cached(f"{cost} {aliases} {dtype} {device}"):
        try:
            call(points, points, number, number, number, number.new_ones(1 + numbers))
        except Exception as error:  # KeOps raises whatever its own code runs into, and hides what the compiler said
            raise InputError(
                f"KeOps cannot compile or load {cost} for {device} ({type(error).__name__}: {error}); "
                f"remove {_cache()} if it was damaged, or give backend torch"
            ) from error
    return call


@contextmanager
def _cached(identity: str) -> Iterator[None]:
    """Bring what is cached of a formula into this process's folder, or put there what the body of `with` compiles."""
    own, cache = _build_folder(), _cache()
    kept = cache / hashlib.sha256(identity.encode()).hexdigest()[:20]
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.is_dir():
            for file in kept.iterdir():
                shutil.copy2(file, own)
            importlib.invalidate_caches()
            yield
            return
        before = {file.name for file in own.iterdir()}
        importlib.invalidate_caches()
        yield
        new = [file for file in own.iterdir() if file.name not in before and file.suffix != ".pkl"]
        if not new:  # compiled before, when it could not be kept
            return
        made = Path(tempfile.mkdtemp(prefix="making-", dir=cache))
        try:
            for file in new:
                shutil.copy2(file, made)
            made.rename(kept)
        except OSError:  # no room, say: this process has what it needs
            shutil.rmtree(made, ignore_errors=True)


def _cache() -> Path:
    """Return the folder of compiled formulas: one per version of KeOps, of Python and of what they are compiled on."""
    versions = f"{_pykeops().__version__}-{platform.python_version()}-{platform.node()}-{platform.machine()}"
    where = os.environ.get("FLOWPAIRS_KEOPS_CACHE") or Path.home() / ".cache" / "flowpairs" / "keops"
    folder = Path(where) / versions
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"FLOWPAIRS_KEOPS_CACHE={where}: cannot be written to ({error}); give a folder") from error
    return folder


def _build_folder() -> Path:
    """Return the folder in which KeOps compiles for this process."""
    return Path(_pykeops().get_build_folder())


@functools.cache
def _pykeops() -> Any:
    """Import pykeops with a folder of this process's own; it looks for compilers and devices, and prints what it finds.

    Where something else has imported it before, that folder becomes the one in which it compiles.
    """
    own = tempfile.mkdtemp(prefix="flowpairs-keops-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)  # before pykeops registers to write there
    quiet = {"PYKEOPS_VERBOSE": "0", "KEOPS_VERBOSE": "0"}
    first = "pykeops" not in sys.modules
    before = {name: os.environ.get(name) for name in ("KEOPS_CACHE_FOLDER", *quiet)}
    os.environ.update({name: value for name, value in quiet.items() if before[name] is None})
    os.environ["KEOPS_CACHE_FOLDER"] = own
    try:
        pykeops: Any = importlib.import_module("pykeops")
        importlib.import_module("pykeops.config")
        importlib.import_module("pykeops.torch")
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    if not first:
        pykeops.set_build_folder(own)
    return pykeops
