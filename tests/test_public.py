"""The public face: light to import, and each of its names is what its module defines."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import flowpairs


def test_importing_it_imports_nothing_heavy() -> None:
    program = "import sys, flowpairs; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    loaded = {name.partition(".")[0] for name in out.stdout.split()}
    assert "flowpairs" in loaded
    assert loaded.isdisjoint({"torch", "ray", "numpy", "scipy", "pydantic", "fsspec", "pyarrow", "webdataset"})


@pytest.mark.parametrize("name", flowpairs.__all__)
def test_a_name_is_what_its_module_defines(name: str) -> None:
    value = getattr(flowpairs, name)
    assert value is getattr(import_module(value.__module__), name)
    assert value.__doc__


def test_type_checkers_are_told_of_every_name_and_of_the_same_modules() -> None:
    assert flowpairs.__file__ is not None
    tree = ast.parse(Path(flowpairs.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    told = {alias.name: node.module for node in imports for alias in node.names}
    assert {name: told[name] for name in flowpairs.__all__} == flowpairs._MODULES
    assert set(flowpairs.__all__) <= set(dir(flowpairs))


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match=r"^module 'flowpairs' has no attribute 'coupel'$"):
        _ = flowpairs.coupel
