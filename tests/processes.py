"""Processes below this one, so that a test kills its own and none of a session that runs beside it."""

import os
from pathlib import Path


def actors(name: str) -> list[int]:
    """The processes of Ray actors of a class, of a cluster that this process started, by /proc."""
    children: dict[int, list[int]] = {}
    titles: dict[int, bytes] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(entry.name)] = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(os.getpid(), []))
    for process in found:
        found += children.get(process, [])
    return [process for process in found if titles[process].startswith(f"ray::{name}".encode())]
