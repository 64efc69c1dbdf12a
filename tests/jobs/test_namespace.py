"""Installed, flowpairs takes one name: a user's own `training/`, `pipeline.py` and `jobs.py` are never imported.

A job that is submitted from such a directory is in test_submit.py.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from support.installed import unpack_wheel, write_own_modules
from support.processes import outside

from flowpairs.pipeline.store.verify import verify

COUPLE = {
    "data": {"path": "digits", "label": "label"},
    "coupling": {"n": 256, "rel_eps": 0.3},
    "output": {"dir": "pairs", "pairs": 512},
    "cluster": {"actors": 1},
}
TRAIN = {
    "pairs": {"dir": "pairs"},
    "model": {"kind": "mlp", "width": 16, "depth": 1},
    "train": {"steps": 4, "batch": 64, "warmup": 1, "log_every": 2},
    "output": {"dir": "run"},
    "cluster": {"workers": 1},
}
SCRIPT = """
import sys
import flowpairs
import flowpairs.pipeline.couple, flowpairs.training.train, flowpairs.jobs.cli
print(flowpairs.__version__, *(name for name in ("training", "pipeline", "jobs") if name in sys.modules))
"""
SMALL = [
    "couple.coupling.n=256",
    "couple.coupling.rel_eps=0.3",
    "couple.output.pairs=512",
    "train.model.width=16",
    "train.train.steps=4",
    "train.train.batch=64",
    "train.train.warmup=1",
    "train.train.log_every=2",
    "evaluate.samples=64",
    "evaluate.euler=[2]",
]


def python(*arguments: str, cwd: Path, **environment: str) -> str:
    """What a process prints; Python puts its directory first on the path for `-m`, and the script's for a script."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=outside() | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's directory."""
    directory = write_own_modules(tmp_path_factory.mktemp("own"))
    (directory / "couple.yaml").write_text(yaml.safe_dump(COUPLE))
    (directory / "train.yaml").write_text(yaml.safe_dump(TRAIN))
    (directory / "script.py").write_text(SCRIPT)
    return directory


@pytest.mark.nightly
def test_commands_work_beside_a_users_own_modules(own: Path) -> None:
    python("-m", "flowpairs.jobs.cli", "couple", "couple.yaml", cwd=own)
    assert verify(own / "pairs").faults == []
    python("-m", "flowpairs.jobs.cli", "train", "train.yaml", cwd=own)
    assert json.loads((own / "run" / "train.json").read_bytes())["steps"] == 4


def test_a_script_beside_them_imports_flowpairs(own: Path) -> None:
    assert python("script.py", cwd=own).split() == [version("flowpairs")]


@pytest.mark.slow
def test_the_demo_works_beside_them(own: Path) -> None:
    said = python("-m", "flowpairs.jobs.cli", "demo", "demo", "--seeds", "1", *SMALL, cwd=own)
    assert "demo/report.html" in said
    assert (own / "demo" / "report.html").stat().st_size > 10_000
    for method in ("sinkhorn", "independent"):
        assert json.loads((own / "demo" / f"pairs-{method}" / "index.json").read_bytes())["pairs"] == 512
        assert json.loads((own / "demo" / f"run-{method}-seed0" / "train.json").read_bytes())["steps"] == 4
        assert json.loads((own / "demo" / f"run-{method}-seed0" / "evaluation.json").read_bytes())["samples"] == 64


@pytest.mark.slow
def test_a_wheel_installs_one_name_and_all_that_the_demo_needs(tmp_path: Path) -> None:
    site = unpack_wheel(tmp_path)
    assert sorted(path.name for path in site.iterdir()) == ["flowpairs", f"flowpairs-{version('flowpairs')}.dist-info"]
    assert (site / "flowpairs" / "py.typed").is_file()
    look = (
        "from importlib.resources import files; import flowpairs, flowpairs.jobs.cli; "
        "from flowpairs.training.report.page import render; from flowpairs.training.export import card; "
        "print(flowpairs.__file__, files('flowpairs.configs') / 'digits' / 'couple.yaml', len(render([], [])))"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code, config, length = python("-c", look, cwd=elsewhere, PYTHONPATH=str(site)).split()
    assert Path(code).is_relative_to(site)
    assert Path(config).is_relative_to(site)
    assert yaml.safe_load(Path(config).read_text())["data"]["path"] == "digits"
    assert int(length) > 5_000  # the report's template and its style were found
    assert (site / "flowpairs" / "training" / "export" / "card.md.j2").is_file()
    command = ["-m", "flowpairs.jobs.cli", "demo", "--help"]
    assert "Example:" in python(*command, cwd=elsewhere, PYTHONPATH=str(site))
