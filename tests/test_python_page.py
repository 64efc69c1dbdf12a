"""docs/python.md: its blocks run, one after the other, in one namespace and in an empty directory."""

import re
from pathlib import Path
from typing import Any

import pytest

import flowpairs

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in BLOCKS:
        line = TEXT[: TEXT.index(block)].count("\n")
        exec(compile("\n" * line + block, str(PAGE), "exec"), namespace)
    assert namespace["quick"].shape == (16, 1, 8, 8)


def test_it_names_all_of_the_public_face_and_files_that_exist() -> None:
    assert [name for name in flowpairs.__all__ if not re.search(rf"`{name}`|fp\.{name}\(", TEXT)] == []
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
