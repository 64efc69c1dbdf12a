"""The layout's rules: which room may import which, no circles, few entries per room, short modules, distinct names.

A room is a folder or, in jobs/, a single file; the top of a folder is a room, too. Imports inside functions count,
those for type checkers alone do not.
"""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from flowpairs.jobs.cli import COMMANDS

PROJECT = Path(__file__).resolve().parents[1]
FOLDERS = "pipeline", "training", "jobs"

# Each room and the rooms that it may import, all of which stand above it in this table.
DATA = "pipeline/base pipeline/config pipeline/data pipeline/blocks pipeline/store"
COUPLING = f"{DATA} pipeline/ot pipeline/solve pipeline/cluster"
NETWORKS = "training/config training/models training/pairs training/objectives"
TRAINED = f"{NETWORKS} training/run training/sampling training/metrics"
ROOMS = {
    "pipeline/base": "",
    "pipeline/config": "pipeline/base",
    "pipeline/data": "pipeline/base pipeline/config",
    "pipeline/blocks": "pipeline/base pipeline/config pipeline/data",
    "pipeline/store": "pipeline/base pipeline/config pipeline/data pipeline/blocks",
    "pipeline/ot": "pipeline/base",
    "pipeline/solve": f"{DATA} pipeline/ot",
    "pipeline/cluster": f"{DATA} pipeline/ot pipeline/solve",
    "pipeline": COUPLING,
    "training/config": "pipeline/base pipeline/config",
    "training/models": "pipeline/base training/config",
    "training/pairs": f"{DATA} pipeline/solve training/config",
    "training/objectives": "pipeline/base pipeline/blocks training/config training/models training/pairs",
    "training/run": f"{COUPLING} {NETWORKS}",
    "training/sampling": f"{DATA} pipeline/ot pipeline/solve {NETWORKS} training/run",
    "training/metrics": f"{DATA} pipeline/cluster {NETWORKS} training/run training/sampling",
    "training/report": f"{DATA} pipeline/solve {TRAINED}",
    "training/export": f"{DATA} pipeline/solve {TRAINED} training/report",
    "training": f"{COUPLING} {TRAINED} training/report training/export",
    "jobs/public": f"pipeline {COUPLING} training {TRAINED} training/report training/export",
    "jobs/options": "",
    "jobs/stream_config": "pipeline/base pipeline/config training/config",
    "jobs/remote": "pipeline/base pipeline/config training/config jobs/options jobs/stream_config",
    "jobs": f"pipeline {COUPLING} training {TRAINED} training/report training/export jobs/public jobs/options "
    "jobs/stream_config jobs/remote",
}

# Names that several modules have because they mean the same thing.
SHARED = {
    *COMMANDS,  # a command, the verb behind it, and the part of a configuration that says how
    "Coupling",  # of two sets of points: the numerics' own, and the face's around it
    "batches",  # one per format of the data
    "check_directory",  # whether a job may go on in its output directory: of a pair store, of a training run
    "config",
    "coupling",  # the section of the configuration, and what it is of
    "data",
    "dataset",  # one per format of the data
    "rows",  # of a data set, and the folder of all that makes and keeps them
    "sampling",
    "solve",
    "solver",  # one per kind of problem
    "survey",  # one per format of the data
    "training",
}

WORDS = {"crew", "known", "lane", "lanes", "shelf", "ends", "trail", "trials", "matched", "place", "places", "crowd"}
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")  # of an identifier


def modules() -> dict[str, Path]:
    """Every module under the name by which it is imported."""
    found = {}
    for folder in FOLDERS:
        for path in (PROJECT / folder).rglob("*.py"):
            inner = path.relative_to(PROJECT).with_suffix("").parts
            parts = inner[2:] if inner[:2] == ("jobs", "public") else inner
            found[".".join(["flowpairs", *parts]).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """A syntax tree without what only type checkers read."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test).endswith("TYPE_CHECKING"):
        return
    yield tree
    for child in ast.iter_child_nodes(tree):
        yield from nodes(child)


def imports(module: str) -> set[str]:
    """The modules of this project that a module imports anywhere in it."""
    found = set()
    for node in nodes(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{module}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
    return found & MODULES.keys() - {module}


GRAPH = {module: imports(module) for module in MODULES}


def room(module: str) -> str:
    """The smallest room that a module is in."""
    path = MODULES[module].relative_to(PROJECT).with_suffix("")
    return next(part for part in map(str, (path, *path.parents)) if part in ROOMS)


def packages() -> set[str]:
    """The folders with an `__init__.py`."""
    return {
        str(path.parent.relative_to(PROJECT)) for folder in FOLDERS for path in (PROJECT / folder).rglob("__init__.py")
    }


def test_a_room_imports_only_rooms_below_it() -> None:
    below: set[str] = set()
    for name, allowed in ROOMS.items():
        assert set(allowed.split()) <= below, f"{name} may import a room that is not below it"
        below.add(name)
    wrong = [
        f"{module} imports {imported}"
        for module in sorted(GRAPH)
        for imported in sorted(GRAPH[module])
        if room(imported) not in (room(module), *ROOMS[room(module)].split())
    ]
    assert wrong == []


def test_no_circle_of_files() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, with the files


def test_rooms_are_few_at_every_level() -> None:
    levels = [name for name in packages() if name.split("/")[0] in ("pipeline", "training")]
    for name in levels:
        held = [path for path in (PROJECT / name).glob("*.py") if path.name != "__init__.py"]
        inner = [other for other in levels if str(Path(other).parent) == name]
        assert len(held) + len(inner) <= 12, f"{name}: {sorted(path.stem for path in held)} and {sorted(inner)}"


def test_modules_are_short() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > 400} == {}


def test_every_package_is_installed_under_its_name() -> None:
    tools = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    named = {name.replace("/", "."): name for name in packages() | {"configs"}}
    installed = {"flowpairs" if name == "jobs.public" else f"flowpairs.{name}" for name in named}
    assert sorted(tools["packages"]) == sorted(installed)
    places = {
        name: "jobs/public" if name == "flowpairs" else name.removeprefix("flowpairs.") for name in tools["package-dir"]
    }
    assert tools["package-dir"] == places
    assert sorted(tools["packages"]) == tools["packages"]


def test_a_name_means_one_thing() -> None:
    """Of modules, and of public functions and classes at their top; a module may be named as what it holds."""
    held: defaultdict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        name = module.rpartition(".")[2]
        held[name].add(module)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                held[node.name].add(module)
    wrong = {name: sorted(owners) for name, owners in held.items() if len(owners) > 1 and name not in SHARED}
    assert wrong == {}


def test_no_identifier_is_a_word_that_only_this_project_used() -> None:
    wrong = set()
    for module, path in MODULES.items():
        names = {part for part in module.split(".") if part in WORDS}
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                    names.add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(asname=str(name)):
                    names.add(name)
        wrong |= {(module, name) for name in names if WORDS & {word.lower() for word in PART.findall(name)}}
    assert sorted(wrong) == []
