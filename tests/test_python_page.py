"""docs/python.md: each of its blocks runs, in order, in one namespace, in a directory with the stores that it names."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.matchings import potential_store
from support.stores import write_store

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
NEEDS = {"fp.couple(": "flowpairs.arrays", "fp.solve(": "flowpairs.arrays", "fp.PairStore(": "flowpairs.store"}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with out/digits and out/potentials."""
    generator = np.random.default_rng(0)
    x, labels = np.clip(generator.normal(size=(1500, 1, 8, 8)), -1, 1).astype(np.float32), np.arange(1500) % 10
    noise = generator.normal(size=x.shape)
    write_store(tmp_path / "out" / "digits", noise, x, labels=labels, shard_counts=[800, 700])
    potential_store(tmp_path / "out" / "potentials", x[:200], labels[:200])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_every_block_runs(directory: Path) -> None:
    namespace: dict[str, Any] = {}
    for block in BLOCKS:
        if any(use in block and find_spec(module) is None for use, module in NEEDS.items()):
            continue  # their modules are still being written
        line = TEXT[: TEXT.index(block)].count("\n")
        exec(compile("\n" * line + block, str(PAGE), "exec"), namespace)
    assert namespace["quick"].shape == (16, 1, 8, 8)
    assert not list((directory / "out" / "potentials" / "shards").glob("*"))


def test_it_names_all_of_the_public_face_and_files_that_exist() -> None:
    import flowpairs

    assert [name for name in flowpairs.__all__ if f"`{name}`" not in TEXT and f"fp.{name}(" not in TEXT] == [
        "Coupling",
        "Pairs",
    ]
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
