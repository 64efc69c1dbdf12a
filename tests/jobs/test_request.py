"""What a submission checks and ships, without a cluster."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flowpairs.jobs.arrival import compare
from flowpairs.jobs.remote import bundle
from flowpairs.jobs.remote.dashboard import Dashboard, check_ray
from flowpairs.jobs.remote.request import request
from flowpairs.jobs.submit import split_options
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, check_cost, load

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "digits"
COUPLE, TRAIN, STREAM = (str(CONFIGS / f"{name}.yaml") for name in ("couple", "train", "stream"))


@pytest.mark.parametrize(
    ("command", "overrides", "says"),
    [
        ("couple", [], "output.dir='out/digits': relative"),
        ("couple", ["output.dir=/shared/out", "data.path=train.npz"], "data.path='train.npz': relative"),
        ("train", ["output.dir=/shared/run"], "pairs.dir='out/digits': relative"),
        ("train", ["pairs.dir=/shared/out"], "output.dir='runs/digits': relative"),
        ("stream", ["couple.output.dir=/shared/out"], "train.output.dir='runs/digits-stream': relative"),
        ("evaluate", [], "'runs/digits': relative"),
        ("couple", ["coupling.n=x"], "coupling.n='x'"),
    ],
)
def test_what_is_wrong_is_said(command, overrides, says):
    with pytest.raises(InputError, match=re.escape(says)):
        request(command, {"couple": COUPLE, "train": TRAIN, "stream": STREAM}.get(command, "runs/digits"), overrides)


def test_a_relative_output_is_refused_before_a_cluster_is_looked_for():
    out = subprocess.run(
        [sys.executable, "-m", "jobs.submit", "couple", COUPLE, "--address", "http://127.0.0.1:1"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert out.returncode == 2
    assert out.stderr.startswith("error: output.dir='out/digits': relative")


def test_a_command_that_runs_here_says_that_a_dashboard_takes_jobs_only(tmp_path):
    out = subprocess.run(
        [sys.executable, "-m", "jobs.couple", COUPLE, f"output.dir={tmp_path / 'pairs'}"],
        env=os.environ | {"RAY_ADDRESS": "http://127.0.0.1:8265"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert out.returncode == 2
    assert out.stderr.startswith("error: RAY_ADDRESS='http://127.0.0.1:8265': takes jobs only; use `flowpairs submit`")


def test_urls_and_embedded_data_are_no_relative_paths():
    asked = request("couple", COUPLE, ["output.dir=s3://bucket/digits/"])
    assert asked.outputs == ("s3://bucket/digits",)
    assert request("plan", COUPLE, ["output.dir=/shared/out"]).outputs == ()
    both = ["couple.output.dir=/shared/out", "train.output.dir=/shared/run"]
    assert request("stream", STREAM, both).outputs == ("/shared/out", "/shared/run")


def test_options_of_the_command_itself_are_passed_on():
    """Wherever they stand among the overrides, as its own command line is read."""
    asked = ["output.dir=/shared/out", "--extend", "coupling.n=64"]
    assert split_options("couple", COUPLE, asked) == (["output.dir=/shared/out", "coupling.n=64"], ["--extend"])
    assert request("couple", COUPLE, *split_options("couple", COUPLE, asked)).arguments == ["--extend"]
    asked = ["samples=64", "--preset", "cifar10", "--trust"]
    evaluation = request("evaluate", "/shared/run", *split_options("evaluate", "/shared/run", asked))
    assert evaluation.arguments == ["/shared/run", "samples=64", "--preset", "cifar10", "--trust"]
    assert split_options("status", "/shared/run", ["--json"]) == ([], ["--json"])


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("couple", ["--extand"], "submit couple: No such option: --extand"),
        ("evaluate", ["--preset", "cifar"], "submit evaluate: Invalid value for '--preset'"),
        ("evaluate", ["--samples", "x.npz"], "--samples 'x.npz': relative"),
        ("verify", ["--deep"], "submit verify: Option '--deep' requires an argument"),
        ("status", ["left", "over"], "submit status: Got unexpected extra argument(s) (left over)"),
    ],
)
def test_options_that_the_command_would_refuse_are_refused_here(command, words, says):
    with pytest.raises(InputError, match=re.escape(says)):
        split_options(command, "/shared/run", words)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (None, "--address: missing"),
        ("auto", "no URL of a dashboard"),
        ("ray://head:10001", "no URL of a dashboard"),
        ("http://127.0.0.1:1", "no answer; start the cluster"),
    ],
)
def test_an_address_where_no_cluster_is(address, says, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # which `Cluster` sets
    with pytest.raises(InputError, match=says):
        Dashboard(address)


def test_another_ray_is_refused():
    check_ray("http://head", "2.60.1", "2.60.0")
    with pytest.raises(InputError, match=r"Ray 2\.9\.3 there and 2\.60\.0 here"):
        check_ray("http://head", "2.9.3", "2.60.0")


def test_code_and_config_are_shipped_and_nothing_else(tmp_path, monkeypatch):
    """The code of packages that lie among data, caches and secrets, and the modules that the config names."""
    own = tmp_path / "own"
    for path in ["costs/__init__.py", "costs/__pycache__/x.pyc", "costs/.git/config", "data.npz", "out/pairs.tar"]:
        (own / path).parent.mkdir(parents=True, exist_ok=True)
        (own / path).touch()
    (own / "costs" / "mine.py").write_text("def dot(x, y): return -(x @ y.T)\n")
    monkeypatch.syspath_prepend(str(own))
    config = load(CoupleConfig, COUPLE, ["output.dir=/shared/out", "coupling.cost=costs.mine:dot"])
    check_cost(config)
    packed = tmp_path / "packed"
    packed.mkdir()
    bundle.pack(packed, config)
    top = {path.name for path in packed.iterdir()}
    assert top == {"flowpairs", "costs", "job.yaml", "environment.json"}
    assert {"__init__.py", "configs", "jobs", "pipeline", "training"} <= {
        path.name for path in (packed / "flowpairs").iterdir()
    }
    assert {path.name for path in (packed / "costs").iterdir()} == {"__init__.py", "mine.py"}
    assert not [path for path in packed.rglob("*") if path.name == "__pycache__" or path.name.startswith(".")]
    assert list(packed.glob("flowpairs/training/**/*.css"))
    assert load(CoupleConfig, packed / "job.yaml") == config


def test_versions_are_held_against_what_was_shipped(tmp_path):
    shipped = bundle.versions()
    assert compare(shipped) == ([], [])
    shipped["packages"]["torch"]["here"] = "2.8.0"
    [other] = compare(shipped)[1]
    assert other.startswith("torch ")
    shipped["packages"]["ray"]["needs"] = ">=2.9,<2.10"
    shipped["packages"]["no-such-package"] = {"needs": "", "here": "1.0"}
    wrong, _ = compare(shipped)
    assert [half.split()[0] for half in wrong] == ["ray", "no-such-package"]

    shipped["python"]["needs"] = ">=9"
    (tmp_path / "environment.json").write_text(json.dumps(shipped))
    out = subprocess.run(
        [sys.executable, "-m", "flowpairs.jobs.arrival", "status", "/absent"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert out.returncode == 2
    assert f"python is {platform.python_version()}, not >=9" in out.stderr
    assert len(out.stderr.splitlines()) == 1


def test_constraints_pin_what_flowpairs_needs(tmp_path):
    (tmp_path / "pins.txt").write_text("numpy==2.4.6\nray==2.60.0\nray[data]==2.60.0\nraypier==1.0\n")
    lines = bundle.pinned_requirements(tmp_path / "pins.txt", tmp_path)
    assert "torch>=2.8" in lines
    assert not [line for line in lines if re.match("ray|pytest|jax[<=>]", line)]
    [shipped] = tmp_path.glob("constraints-*.txt")
    assert lines[-1] == f"-c ${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{shipped.name}"
    assert shipped.read_text() == "numpy==2.4.6\nraypier==1.0\n"
    with pytest.raises(InputError, match="no such file"):
        bundle.pinned_requirements(tmp_path / "absent.txt", tmp_path)
