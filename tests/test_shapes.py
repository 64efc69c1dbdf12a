"""Shapes and types in signatures are what passes: some tests run once more with every call checked.

`make test-all` checks every call of all tests, which take twice the time then.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import outside

TESTS = Path(__file__).parent
FILES = ("public/test_arrays.py", "training/test_objectives.py", "pipeline/test_payloads.py")


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("FLOWPAIRS_TESTS") == "all", reason="all tests are checked there")
def test_shapes_are_as_annotated() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
    command += ["--jaxtyping-packages=flowpairs,beartype.beartype", *(str(TESTS / file) for file in FILES)]
    environment = {key: value for key, value in outside().items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
