"""The claims of the README and the documents that a machine can check."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from support.couplings import settings

from flowpairs.jobs.cli import COMMANDS, main
from flowpairs.pipeline.couple import couple

README = Path("README.md").read_text()
DOCUMENTS = [Path("README.md"), Path("CHANGELOG.md"), *sorted(Path("docs").rglob("*.md"))]


def test_the_reader_without_the_project(tmp_path: Path) -> None:
    """The README's ten lines, as they stand there, in a process that cannot import this project."""
    couple(settings(tmp_path / "out" / "digits", output={"pairs": 400}))
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    [script] = [block for block in blocks if "import webdataset" in block]
    assert len(script.strip().splitlines()) <= 10
    (tmp_path / "read.py").write_text(script)
    out = subprocess.run(
        [sys.executable, "read.py"], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert out.stdout.startswith("b000000-r000000000 (150, 1, 8, 8) (150, 1, 8, 8) [")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there_and_shows_an_example(command: str) -> None:
    out = subprocess.run(
        [sys.executable, "-m", f"jobs.{command}", "--help"], check=True, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert "Example:" in out.stdout


def made_pages() -> set[Path]:
    """The pages that the site makes when it is built, and the repository does not hold."""
    hooks = runpy.run_path("docs/site/hooks.py")
    return {Path("docs") / name for name in hooks["pages"]()}


MADE = made_pages()


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_files_and_anchors_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    named = re.findall(r"`((?:pipeline|training|jobs|configs|docs|benchmarks|tests)/[\w./-]+)`", text)
    missing = [path for path in named if not Path(path).exists()]
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", text):
        path = document.parent / target if target else document
        if Path(os.path.normpath(path)) in MADE and not anchor:
            continue
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(f"{target}#{anchor}")
    assert missing == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["couple", "nothing.yaml"], "config 'nothing.yaml': no such file"),
        (["couple", "configs/digits/couple.yaml", "coupling.n=x"], "coupling.n='x'"),
        (["couple", "configs/digits/couple.yaml", "data.path=none.npz"], "data.path='none.npz'"),
        (["train", "configs/digits/train.yaml", "pairs.dir=nowhere"], "pair store 'nowhere': no such directory"),
        (["evaluate", "nowhere"], "nowhere"),
        (["sample", "nowhere", "--output", "out.npz"], "nowhere"),
        (["export", "nowhere", "--output", "out"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["status", "nowhere"], "nowhere"),
        (["verify", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_status_two(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In an empty directory: what lies in the clone's own out/ and runs/ is of no matter.

    The command's entry point in this process; tests/jobs/test_extras.py has processes of their own that end so.
    """
    given = [str(Path(item).absolute()) if item.startswith("configs/") else item for item in arguments]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["flowpairs", *given])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert_one_sentence(capsys.readouterr().err, says)


def test_so_it_is_where_the_command_is_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flowpairs.jobs.cli", "train", "nothing.yaml"]
    out = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert out.returncode == 2
    assert_one_sentence(out.stderr, "config 'nothing.yaml': no such file")


def assert_one_sentence(said: str, says: str) -> None:
    assert said.startswith("error: ")
    assert says in said
    assert len(said.strip().splitlines()) == 1
