"""flowpairs as users have it: out of a wheel, and beside modules of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = "pyproject.toml", "README.md", "LICENSE", "configs", "jobs", "pipeline", "training"


def write_own_modules(directory: Path) -> Path:
    """Modules of a user's own under the names of this project's folders; none of them survives being imported."""
    for name in ("training/__init__.py", "pipeline.py", "jobs.py"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise RuntimeError('the own {name} of a user was imported')\n")
    return directory


def unpack_wheel(directory: Path) -> Path:
    """A folder that holds what a wheel of this clone installs, and nothing else; built from a copy of the sources."""
    sources, built, site = directory / "sources", directory / "built", directory / "site"
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            sources.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, sources)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(built), str(sources)], check=True, capture_output=True, timeout=120)
    [wheel] = built.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    return site
