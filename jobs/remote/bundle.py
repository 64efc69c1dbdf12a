"""The bundle that a submission ships: a directory with code, config and required versions; Ray uploads it by its hash.

The code is copied from where this process imported it, a clone or site-packages. No other file is copied from there, so
that no data, cache, output or secret next to the code is shipped.
"""

import hashlib
import importlib.util
import json
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import Strict, save

PACKAGES = ("pipeline", "training", "jobs", "configs")
CONFIG, ENVIRONMENT = "job.yaml", "environment.json"
LEFTOVERS = shutil.ignore_patterns("__pycache__", ".*")
TOOLS = ("dev", "bench")  # extras that no job needs


def pack(directory: Path, config: Strict | None) -> None:
    """Fill an empty directory with the bundle.

    Args:
        directory: the directory to fill, which becomes the working directory of the job.
        config: the config to ship as job.yaml, together with the user's own modules that it names; None: no config.

    Raises:
        InputError: flowpairs is not installed here, so that its requirements are unknown.
    """
    code = directory / "flowpairs"
    shutil.copytree(_folder("flowpairs"), code, ignore=LEFTOVERS)
    for name in PACKAGES:  # in a clone a folder of its own, in site-packages below `flowpairs`
        shutil.copytree(_folder(f"flowpairs.{name}"), code / name, ignore=LEFTOVERS, dirs_exist_ok=True)
    (directory / ENVIRONMENT).write_text(json.dumps(versions(), indent=1))
    if config is not None:
        save(config, directory / CONFIG, "flowpairs submit")
        for module in _own_modules(config.model_dump(mode="json")):
            _copy(module, directory)


def versions() -> dict[str, Any]:
    """List the versions that the code needs and those installed here; `jobs.arrival` compares the cluster with them."""
    return {
        "python": {"needs": metadata.metadata("flowpairs")["Requires-Python"], "here": platform.python_version()},
        "packages": {
            need.name: {"needs": str(need.specifier), "here": metadata.version(need.name)}
            for need in _needs()
            if need.marker is None
        },
    }


def pinned_requirements(constraints: Path, directory: Path) -> list[str]:
    """List the lines for `pip` in Ray's runtime environment: flowpairs' requirements, at the versions that a file pins.

    Ray is left out, since a job runs on the cluster's Ray. Requirements of extras are included if installed here.

    Args:
        constraints: the path of a file with lines name==version, such as constraints.txt.
        directory: the bundle, to which the file is copied; the hash in its name lets Ray distinguish environments.

    Raises:
        InputError: the file does not exist.
    """
    if not constraints.is_file():
        raise InputError(f"--pip {str(constraints)!r}: no such file; give one with lines name==version")
    pins = [line for line in constraints.read_text().splitlines() if not line.lower().startswith(("ray=", "ray["))]
    text = "\n".join(pins) + "\n"
    name = f"constraints-{hashlib.sha256(text.encode()).hexdigest()[:8]}.txt"
    (directory / name).write_text(text)
    needs = [need for need in _needs() if need.name != "ray" and (need.marker is None or _of_an_extra(need))]
    return [*(f"{need.name}{need.specifier}" for need in needs), f"-c ${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{name}"]


def _needs() -> list[Requirement]:
    try:
        needs = [Requirement(line) for line in metadata.requires("flowpairs") or []]
        return [need for need in needs if need.name != "flowpairs"]  # an extra that consists of other extras
    except metadata.PackageNotFoundError as error:
        raise InputError("flowpairs: not installed here, only on the path; run pip install for it first") from error


def _of_an_extra(need: Requirement) -> bool:
    """Return whether an optional requirement may be needed by a job and is installed here."""
    assert need.marker is not None
    if any(need.marker.evaluate({"extra": tool}) for tool in TOOLS):
        return False
    try:
        metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _own_modules(tree: Any) -> Iterator[Path]:
    """Yield the paths of the user's modules and packages that a config names as `module:function`.

    Installed packages are left out. `check_cost` must have imported the modules, since their paths are taken from
    `sys.modules`.
    """
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _own_modules(value)
    elif isinstance(tree, str):
        name, colon, _ = tree.partition(":")
        top = sys.modules.get(name.partition(".")[0]) if colon and name in sys.modules else None
        if top is None or top.__name__ == "flowpairs" or top.__file__ is None:
            return
        file = Path(top.__file__).resolve()
        installed = [Path(path).resolve() for path in sysconfig.get_paths().values()]
        if not any(file.is_relative_to(path) for path in installed):
            yield file.parent if file.name == "__init__.py" else file


def _copy(source: Path, directory: Path) -> None:
    """Copy a module or a package, without the files that Python and editors create in it."""
    if source.is_file():
        shutil.copy(source, directory)
    else:
        shutil.copytree(source, directory / source.name, ignore=LEFTOVERS)


def _folder(package: str) -> Path:
    """Return the folder of a package's code."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
