"""Entry point of a submitted job on the cluster: compares the environment with what was shipped, then runs the command.

    python -m flowpairs.jobs.arrival couple job.yaml

Its error message must also appear in an environment without flowpairs' dependencies, so the comparison uses only
Python and `packaging`, which Ray installs.
"""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

NUMERIC = ("numpy", "scipy", "torch", "pot", "pykeops")  # their versions may change the last bits of pairs and weights


def compare(shipped: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Compare the environment here with the one where the job was submitted.

    Args:
        shipped: the content of environment.json.

    Returns:
        The faults that prevent the job, and the differences that may only change the last bits of results.
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
    """Run the command in this process, or exit with status 2 if the environment does not fit."""
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
