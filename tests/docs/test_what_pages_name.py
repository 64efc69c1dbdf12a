"""Every command, option, key and config that a document names exists."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from flowpairs.jobs.cli import application
from flowpairs.jobs.config import all_keys

DOCUMENTS = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
COMMANDS = get_command(application()).commands
KEYS: dict[str, set[str]] = {}
for owner, each in all_keys():
    KEYS.setdefault(owner, set()).add(each.name)
KEYS["stream"] = {f"{part}.{name}" for part in ("couple", "train") for name in KEYS[part]}
KEYS["plan"] = KEYS["couple"]
ALL = set().union(*KEYS.values())
SECTIONS = {name.partition(".")[0] for name in ALL if "." in name} - {"couple", "train"}
NOT_KEYS = {"json", "npy", "npz", "tar", "parquet", "md", "py", "yaml", "npz`", "html", "csv", "h5ad"}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"[A-Z_]+")


def code_lines(text: str) -> Iterator[str]:
    """The command lines in blocks of code, joined where a backslash ends one."""
    for language, block in FENCED.findall(text):
        if language not in ("", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("flowpairs "):
                yield line.strip()


def command_lines() -> list[tuple[Path, str]]:
    return [(path, line) for path in DOCUMENTS for line in code_lines(path.read_text())]


@pytest.mark.parametrize(("document", "line"), command_lines(), ids=lambda value: str(value)[:70])
def test_a_command_line_would_be_read(document: Path, line: str) -> None:
    words = shlex.split(line.rstrip("& "), comments=True)[1:]
    check(words)


def check(words: list[str]) -> None:
    """Have the parser read a command line, then look for the keys and the config that it names."""
    name, *rest = words
    if name == "--help" or name == "--version":
        return
    assert name in COMMANDS, name
    command = COMMANDS[name]
    with command.make_context(name, [word for word in rest if word not in ("...", "FILE...")]) as context:
        given = context.params
    target = str(given["command"]) if name == "submit" else name
    overrides = given.get("overrides") or []
    config = given.get("config")
    if config is not None and str(config).startswith("configs/"):
        assert Path(config).is_file(), config
    for item in overrides:
        key, equals, _ = item.partition("=")
        assert equals, item
        assert key in KEYS[target] or any(known.startswith(f"{key}.") for known in KEYS[target]), f"{target}: {key}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_inline_commands_and_keys_exist(document: Path) -> None:
    text = FENCED.sub("", document.read_text())
    wrong = []
    for code in re.findall(r"`([^`\n]+)`", text):
        if code.startswith("flowpairs "):
            name, *rest = code.split()[1:]
            if PLACEHOLDER.fullmatch(name) or name.startswith("--"):
                continue
            options = {word.partition("=")[0] for word in rest if word.startswith("--")} - {"--help"}
            known = {opt for parameter in COMMANDS[name].params for opt in parameter.opts} if name in COMMANDS else None
            if known is None or not options <= known:
                wrong.append(code)
        elif found := re.fullmatch(r"(?:couple\.|train\.(?=\w+\.))?((\w+)\.(\w+))(=.*|: .*)?", code):
            wrong += [code] if found[2] in SECTIONS and found[3] not in NOT_KEYS and found[1] not in ALL else []
    assert wrong == []


@pytest.mark.parametrize(
    ("page", "program"),
    [
        ("how-to/one-gpu.md", ["memory.py"]),
        ("gpu.md", ["memory.py", "--team"]),
        ("scaling.md", ["gpu_times.py"]),
        ("semidiscrete.md", ["gpu_times.py", "--semidiscrete"]),
    ],
)
def test_the_arithmetic_of_a_gpus_memory_and_times_is_what_pages_say(page: str, program: list[str]) -> None:
    command = [sys.executable, f"docs/how-to/{program[0]}", *program[1:]]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout.strip() in Path("docs", page).read_text()


def test_a_chain_goes_back_into_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of how-to/single-cell.md, on cells that are made here, with the network of a run replaced by none."""
    h5py = pytest.importorskip("h5py", reason="the extra `cells` is not installed")
    import torch

    from flowpairs.training.run import trained

    [block] = re.findall(r"```python\n(.*?)```", Path("docs/how-to/single-cell.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    cells = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    with h5py.File("cells.h5ad", "w") as file:
        file["obsm/X_pca"], file["obs/day"] = cells, np.repeat([0.0, 1.0], 10)

    class Run:
        def network(self, device: torch.device) -> object:
            return lambda t, x: torch.ones_like(x)  # every cell moves by 1

    monkeypatch.setattr(trained, "read_finished", lambda directory: Run())
    exec(compile(block, "single-cell.md", "exec"), {})
    with h5py.File("cells.h5ad") as file:
        led_on = file["obsm/X_flow"][:]
    assert np.allclose(led_on[:10], cells[:10] + 1, atol=1e-4)
    assert np.isnan(led_on[10:]).all()
