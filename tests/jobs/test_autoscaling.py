"""A job asks Ray's autoscaler for the nodes that its actors need."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import CoupleConfig, load

NODES = """
import json, ray
ray.init(log_to_driver=False)
print(json.dumps([node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]))
"""


def live(environment: dict[str, str]) -> list[float]:
    """CPUs of every live node, as soon as the head answers."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [sys.executable, "-c", NODES], env=environment, capture_output=True, text=True, timeout=120
        )
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        assert time.monotonic() < deadline, done.stderr
        time.sleep(1)


@pytest.mark.slow
def test_a_job_asks_for_its_actors_nodes_and_lets_them_go(scaling: dict[str, str], tmp_path: Path) -> None:
    assert live(scaling) == [0], "nobody has asked for a worker yet"
    command = [sys.executable, "-m", "jobs.cli", "couple", "configs/digits/couple.yaml"]
    command += [f"output.dir={tmp_path / 'out'}", "output.pairs=2000", "coupling.n=1000", "coupling.resample=null"]
    command += ["output.pairs_per_shard=500", "cluster.actors=2", "cluster.gpus_per_actor=0"]
    refused = subprocess.run(command, env=scaling, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2, "there is no worker, and it was not told to ask for any"
    asked = [*command, "cluster.scale_seconds=200"]
    done = subprocess.run(asked, env=scaling, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "on 2 actors" in done.stderr
    deadline = time.monotonic() + 120
    while live(scaling) != [0]:
        assert time.monotonic() < deadline, "idle workers stay, so the request outlived the job"
        time.sleep(2)


def test_nodes_that_are_not_there_are_asked_for_by_number(tmp_path: Path) -> None:
    (tmp_path / "couple.yaml").write_text(
        "{data: {path: digits}, coupling: {n: 100}, output: {dir: out, pairs: 100}, cluster: {scale_seconds: 60}}"
    )
    with pytest.raises(InputError, match=r"scale_seconds=60: .* give actors and gpus_per_actor"):
        load(CoupleConfig, tmp_path / "couple.yaml")
    load(CoupleConfig, tmp_path / "couple.yaml", ["cluster.actors=2", "cluster.gpus_per_actor=1"])
