"""Nodes and members that are lost at every stage: the job goes on with what there is, and ends in the same bytes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.couplings import couple_here, settings, shard_bytes
from support.processes import outside

from flowpairs.pipeline.config import CoupleConfig
from flowpairs.pipeline.store.verify import verify

JOB: dict[str, dict[str, Any]] = {
    "team": {
        "coupling": {"n": 1600, "rel_eps": 0.02},
        "output": {"pairs": 3000, "pairs_per_shard": 500},
        "cluster": {"actors": 2, "actors_per_block": 2, "checkpoint_seconds": 0},
    },
    "semidiscrete": {
        "coupling": {"n": 400, "method": "semidiscrete", "rel_eps": 0, "chi2": 0.02},
        "output": {"pairs": 800},
        "cluster": {"actors": 2, "checkpoint_seconds": 0},
    },
}

# Couples on two raylets of one core, and kills something at some moment:
# job.yaml, what ("node", "member"), when ("start", "solve"), and seconds after which another node comes, or "".
PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, "tests")
from support.processes import actors, add_raylet, two_raylets
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.couple import couple

_, what, when, back = sys.argv[1:]
cluster, other = two_raylets()
config, killed = load(CoupleConfig, sys.argv[1]), []

def until_then():
    if when == "start":
        while not (found := actors("Member")):
            time.sleep(0.001)
        return
    while not list(Path(config.output.dir).glob("potentials/*.checkpoint.npz")):
        time.sleep(0.002)

def kill():
    until_then()
    if what == "node":
        raylet = other.all_processes["raylet"][0].process
        raylet.kill()
    else:
        for member in actors("Member"):
            os.kill(member, signal.SIGKILL)
    killed.append(what)
    if back:
        time.sleep(float(back))
        add_raylet(cluster)

threading.Thread(target=kill, daemon=True).start()
began = time.monotonic()
couple(config)
assert killed
print(round(time.monotonic() - began, 1), flush=True)
os._exit(0)  # the test cluster's own shutdown minds that one of its processes is gone
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The jobs by one process."""
    directories = {name: tmp_path_factory.mktemp("lost") / name for name in JOB}
    for name, directory in directories.items():
        couple_here(settings(directory, **JOB[name]))
    return directories


def lose(config: CoupleConfig, file: Path, *arguments: str) -> None:
    file.write_text(json.dumps(config.model_dump(mode="json")))  # JSON is YAML
    command = [sys.executable, "-c", PROGRAM, str(file), *arguments]
    subprocess.run(command, env=outside(), check=True, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "what", "when", "back"),
    [
        ("team", "node", "solve", ""),
        pytest.param("team", "node", "solve", "20", marks=pytest.mark.nightly),
        ("team", "member", "start", ""),
        pytest.param("team", "node", "start", "", marks=pytest.mark.nightly),
        pytest.param("semidiscrete", "node", "solve", "", marks=pytest.mark.nightly),
        pytest.param("semidiscrete", "member", "start", "", marks=pytest.mark.nightly),
        pytest.param("semidiscrete", "member", "solve", "", marks=pytest.mark.nightly),
    ],
)
def test_the_job_goes_on(
    undisturbed: dict[str, Path], tmp_path: Path, job: str, what: str, when: str, back: str
) -> None:
    directory = tmp_path / "s"
    lose(settings(directory, **JOB[job]), tmp_path / "couple.yaml", what, when, back)
    assert shard_bytes(directory) == shard_bytes(undisturbed[job])
    assert verify(directory).faults == []
