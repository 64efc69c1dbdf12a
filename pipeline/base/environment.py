"""The environment of this process."""

import os
from pathlib import Path


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
