"""Every tutorial runs to its end as anyone would run it, and leaves the picture that docs/tutorials/README.md shows."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from support.processes import outside

DIRECTORY = Path("docs/tutorials")
INDEX = (DIRECTORY / "README.md").read_text()
TUTORIALS = sorted(path.stem for path in DIRECTORY.glob("*.py"))
SHARING = {"pairs_without_flowpairs", "your_model"}  # one pair store: the second finds what the first has made
QUICK = {"your_cost"}  # `make test-all` runs the others too
ALL = os.environ.get("FLOWPAIRS_TESTS") == "all"
RAY = SHARING | {"your_data"}  # those that start it, one after the other

Done = subprocess.CompletedProcess[str]


def run(name: str, directory: Path) -> Done:
    """A tutorial as a process of its own, its output and the shared pairs in `directory`."""
    pairs = ["--pairs", str(directory / "digits")] if name in SHARING else []
    command = [sys.executable, str(DIRECTORY / f"{name}.py"), "--output", str(directory / name), *pairs]
    environment = outside() | {"OMP_NUM_THREADS": "1"}  # of two cores each lane has one
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=390, check=False)


def words(printed: str) -> list[list[str]]:
    """What was printed but its numbers, times and paths, line by line."""
    lines = [[word for word in line.split() if not re.search(r"[\d/│─┌┐└┘]", word)] for line in printed.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, "Future[Done]"]]]:
    """Where they write, and all of them under way: two at a time, and one at a time of those that start Ray."""
    directory, chosen = tmp_path_factory.mktemp("tutorials"), TUTORIALS if ALL else sorted(QUICK)
    lanes = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    yield directory, {name: lanes[name in RAY].submit(run, name, directory) for name in chosen}
    for lane in lanes:
        lane.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.nightly) for name in TUTORIALS]
)
def test_runs_to_its_end_and_leaves_its_picture(name: str, runs: tuple[Path, dict[str, "Future[Done]"]]) -> None:
    """Without flowpairs pairs are read by `make test` too, as the README does it: tests/test_readme.py."""
    directory, futures = runs
    done = futures[name].result()
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 4  # its table
    kept = DIRECTORY / f"{name}.txt"  # what the site shows as its output
    if kept.is_file():
        assert words(kept.read_text()) == words(done.stdout)
    with Image.open(directory / name / f"{name}.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert 600 <= picture.width <= 1200
        assert 150 <= picture.height <= 1200
        assert len(picture.convert("L").getcolors()) > 10  # something is drawn


def test_the_index_names_every_script_and_shows_its_picture() -> None:
    assert sorted(set(re.findall(r"\]\((\w+)\.py\)", INDEX))) == TUTORIALS
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", INDEX)
    assert sorted(shown) == [f"../images/tutorials/{name}.png" for name in TUTORIALS]
    for picture in shown:
        with Image.open(DIRECTORY / picture) as image:
            image.verify()
        assert (DIRECTORY / picture).stat().st_size < 150_000


def test_the_one_without_this_project_imports_nothing_of_it() -> None:
    tree = ast.parse((DIRECTORY / "pairs_without_flowpairs.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom) and node.module}
    assert "webdataset" in names
    assert {name.partition(".")[0] for name in names}.isdisjoint({"flowpairs", "pipeline", "training", "jobs"})
