"""What only a part needs may be missing: the rest works, and that part says which extra to install."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = "sklearn", "tensorboard", "diffusers", "safetensors", "jinja2", "matplotlib"
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({PACKAGES!r})); sys.argv[0] = 'flowpairs'\n"
MAIN = WITHOUT + "from flowpairs.jobs.cli import main; main()"


def without(program: str, *arguments: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    """A program in a process where these packages cannot be imported."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["demo"], "sklearn, tensorboard, matplotlib, jinja2", "demo"),
        (["report", "nowhere"], "jinja2, matplotlib", "report"),
        (["export", "nowhere", "--output", "out"], "safetensors, jinja2", "train"),
        (["sample", "nowhere", "--output", "out.npz"], "matplotlib", "report"),
        (["couple", "couple.yaml"], "sklearn", "digits"),
    ],
)
def test_a_missing_package_is_one_sentence(arguments: list[str], missing: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "couple.yaml").write_text("data: {path: digits}\ncoupling: {n: 10}\noutput: {dir: out, pairs: 10}\n")
    done = without(MAIN, *arguments, directory=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"needs {missing}, not installed here; pip install 'flowpairs[{extra}]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_arrays_and_stores_need_none_of_them(tmp_path: Path) -> None:
    program = WITHOUT + (
        "import numpy as np, flowpairs as fp\n"
        "x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)\n"
        "assert len(fp.couple(x, n=30)) == 30\n"
        "np.savez('x.npz', image=x)\n"
        "job = {'data': {'path': 'x.npz'}, 'coupling': {'n': 30}, 'output': {'pairs': 60}, 'cluster': {'actors': 0}}\n"
        "store = fp.PairStore('pairs', job)\n"
        "assert store.couple().pairs == 60\n"
        "assert not store.verify(deep=1).faults\n"
        "with fp.PairLoader('pairs', 20) as loader: assert len(list(loader)) == len(loader) == 3\n"
    )
    done = without(program, directory=tmp_path)
    assert done.returncode == 0, done.stderr
