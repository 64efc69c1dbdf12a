"""Runs on the cluster, ahead of the command: holds what is installed there against what was shipped, then hands over.

    python -m flowpairs.jobs.arrival couple job.yaml

It must get as far as its sentence in other environments than flowpairs': nothing but Python and `packaging`, of Ray's.
"""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

NUMERIC = ("numpy", "scipy", "torch", "pot", "pykeops")  # whose versions may change the last bits of pairs and weights


def compare(shipped: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What is wrong with the environment here, and what is merely another than where the job was submitted.

    Args:
        shipped: the content of environment.json.
    """
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version
    except ImportError:
        return ["packaging is missing, and so must be Ray"], []
    wrong, other = [], []
    for name, package in [("python", shipped["python"]), *shipped["packages"].items()]:
        try:
            here = platform.python_version() if name == "python" else importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        ours, theirs = Version(here).release, Version(package["here"]).release
        if not SpecifierSet(package["needs"]).contains(here, prereleases=True):
            wrong.append(f"{name} is {here}, not {package['needs']}")
        elif (name == "python" and ours[:2] != theirs[:2]) or (name in NUMERIC and ours != theirs):
            other.append(f"{name} {here} for {package['here']}")
    return wrong, other


def arrive() -> None:
    """Refuse with exit status 2, or run the command in this very process."""
    wrong, other = compare(json.loads(Path("environment.json").read_text()))
    if wrong:
        print(
            f"error: {sys.executable} on the cluster: {', '.join(wrong)}; install the versions of constraints.txt in "
            "the cluster's image, or submit with --pip constraints.txt",
            file=sys.stderr,
        )
        sys.exit(2)
    if other:
        print(
            f"note: the cluster has {', '.join(other)} of where this was submitted; last bits of results may differ",
            file=sys.stderr,
        )
    from flowpairs.jobs.cli import main as command

    command()


if __name__ == "__main__":
    arrive()
