"""The environment of this process: how it was started, its memory, and packages that only parts of flowpairs need."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from flowpairs.pipeline.base.errors import InputError

# Package -> the extra that installs it.
EXTRAS = {
    "sklearn": "digits",
    "h5py": "cells",
    "tensorboard": "train",
    "diffusers": "train",
    "safetensors": "train",
    "jinja2": "report",
    "matplotlib": "report",
}


def in_submitted_job() -> bool:
    """Return whether this process is the driver of a `ray job submit`, whose working directory is temporary."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def available_memory() -> int:
    """Measure the bytes that this process may still take: the machine's free memory, or less in a limited container."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, StopIteration):
        pass  # no Linux, or no limit: the value of sysconf is kept
    return free


def made_with() -> dict[str, str]:
    """Say when and with what something was made: date, version and commit, packages, machine.

    Returns:
        Texts by name. The commit is that of the clone that the code runs from; an installed package has none.
    """
    return {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), **_software_and_machine()}


@cache
def _software_and_machine() -> dict[str, str]:
    """List the versions of flowpairs, of Python, and of the packages that results depend on; and the machine."""
    out = {"python": platform.python_version()}
    for package in ("flowpairs", "torch", "numpy", "ray"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        here = Path(__file__).resolve().parents[2]
        asked = ["git", "-C", str(here), "rev-parse", "--short=12", "--show-toplevel", "HEAD"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.split("\n")
        if Path(found[0]) == here:
            out["commit"] = found[1]
    except (OSError, subprocess.SubprocessError):
        pass  # no git, or no clone
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return out | {"machine": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"}


def _processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def require(what: str, *packages: str, extra: str | None = None) -> None:
    """Refuse a request whose packages are not installed.

    Args:
        what: subject of the sentence that needs the packages: a key with its value, or a command.
        packages: names by which the packages are imported.
        extra: extra that installs all of them; None: that of the first missing package.

    Raises:
        InputError: a package is missing; names the extra to install.
    """
    missing = [package for package in packages if (spec := find_spec(package)) is None or spec.origin is None]
    if missing:
        remedy = f"pip install 'flowpairs[{extra or EXTRAS[missing[0]]}]'"
        raise InputError(f"{what}: needs {', '.join(missing)}, not installed here; {remedy}")
