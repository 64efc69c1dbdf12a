"""Every example is short, runs to its end in a directory with a pair store, and says what it should."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from support.processes import outside
from support.stores import write_store

DIRECTORY = Path(__file__).parents[1] / "docs" / "examples"
TRAINED = {  # example -> the library that it is about
    "train_ddp": "torch",
    "train_lightning": "lightning",
    "train_accelerate": "accelerate",
    "train_torchcfm": "torchcfm",
    "train_jax": "jax",
}
NETWORKS = {"lora_unet"}  # tests/training/test_own_network.py trains it
READ = {"read_datasets": "datasets", "read_ray_data": "ray"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where out/digits is a pair store: x1 follows from x0, so that there is something to learn."""
    directory = tmp_path_factory.mktemp("examples")
    x0 = np.random.default_rng(0).normal(size=(1500, 1, 8, 8)).astype(np.float32)
    write_store(directory / "out" / "digits", x0, x0 / 2, shard_counts=[600, 500, 400], record_pairs=90)
    return directory


def run(name: str, library: str, directory: Path) -> list[str]:
    """The lines that an example prints."""
    if find_spec(library) is None:
        remedy = "pip install --no-deps torchcfm==1.0.7" if library == "torchcfm" else "install the extra `examples`"
        pytest.skip(f"needs {library}: {remedy}")
    command = [sys.executable, str(DIRECTORY / f"{name}.py")]
    if name == "train_ddp":
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = outside() | {
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(directory / "hf"),
        "HF_HUB_OFFLINE": "1",
        "RAY_ADDRESS": "local",
    }
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=390, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss(name: str, directory: Path) -> None:
    lines = run(name, TRAINED[name], directory)
    losses = [float(found[1]) for line in lines if (found := re.search(r"loss (\d+\.\d+)", line))]
    assert len(losses) == (1 if name == "train_lightning" else 5)
    assert losses[-1] < 0.15  # 0.25 where the velocity is always 0
    if name == "train_lightning":
        assert lines[-1].endswith("after 30 steps")


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_reading_meets_every_pair(name: str, directory: Path) -> None:
    assert run(name, READ[name], directory)[-1].startswith("1500 pairs of shape (1, 8, 8)")


def test_each_is_at_most_twenty_lines_of_code_and_none_is_left_out() -> None:
    assert sorted(path.stem for path in DIRECTORY.glob("*.py")) == sorted([*TRAINED, *READ, *NETWORKS])
    for path in DIRECTORY.glob("*.py"):
        text = path.read_text()
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
        docstrings = [n for n in nodes if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
        prose = {line for node in docstrings for line in range(node.lineno, (node.end_lineno or 0) + 1)}
        lines = [
            line
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.strip().startswith("#") and number not in prose
        ]
        assert len(lines) <= 20, f"{path.name}: {len(lines)}"
        assert f"docs/examples/{path.name}" in text  # how it is run
