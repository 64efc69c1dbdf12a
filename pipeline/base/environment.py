"""The environment of this process: how it was started, its memory, and packages that only parts of flowpairs need."""

import os
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
