"""Jobs submitted to a real head with token authentication, as docs/cluster.md has it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.store.format import read_index

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A Ray head of its own: its token, ports, temporary directory and home."""

    address: str
    environment: dict[str, str]
    token: str

    def submit(self, *entrypoint: str, directory: Path = PROJECT, **environment: str) -> subprocess.CompletedProcess:
        command = [
            "ray",
            "job",
            "submit",
            "--address",
            self.address,
            "--working-dir",
            str(directory),
            "--",
            *entrypoint,
        ]
        command[0] = str(BIN / "ray")
        return run(command, self.environment | environment)

    def jobs(self, token: str | None) -> list[dict]:
        """What the dashboard lists; raises `HTTPError` where it refuses."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with urllib.request.urlopen(urllib.request.Request(f"{self.address}/api/jobs/", headers=headers)) as answer:
            return json.load(answer)


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False
    )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    root = Path(tempfile.mkdtemp(prefix="ray-"))  # not tmp_path: Ray's socket names must stay under 108 characters
    home = root / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    ray = str(BIN / "ray")
    generated = run([ray, "get-auth-token", "--generate"], environment)
    assert generated.returncode == 0, generated.stdout
    gcs, dashboard, client, agent = free_ports(4)
    command = [ray, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", "--include-dashboard=true"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={root / 'ray'}"]
    with (root / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        started = Head(f"http://127.0.0.1:{dashboard}", environment, (home / ".ray" / "auth_token").read_text())
        wait_until_it_answers(started, process, root / "head.log")
        yield started
    finally:
        # Not `ray stop`, which stops every Ray on the machine. Ray's own processes die with the one that started them.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(root, ignore_errors=True)


def wait_until_it_answers(head: Head, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            head.jobs(head.token)
            return
        except urllib.error.URLError:
            time.sleep(0.5)
    pytest.fail(f"the head did not start:\n{log.read_text()}")


def test_a_submitted_job_writes_a_complete_pair_store(head, tmp_path):
    overrides = [f"output.dir={tmp_path / 'pairs'}", "coupling.n=256", "coupling.rel_eps=0.3", "output.pairs=512"]
    job = head.submit("python", "-m", "jobs.couple", "configs/digits/couple.yaml", *overrides)
    assert job.returncode == 0, job.stdout
    index = read_index(tmp_path / "pairs")
    assert (index.pairs, index.shape, index.num_classes) == (512, (1, 8, 8), 10)
    assert all((tmp_path / "pairs" / "shards" / shard.name).stat().st_size == shard.bytes for shard in index.shards)


def test_a_relative_output_directory_is_refused_in_a_submitted_job(head):
    job = head.submit("python", "-m", "jobs.couple", "configs/digits/couple.yaml", "output.dir=out/digits")
    assert job.returncode != 0
    assert "output.dir='out/digits': relative" in job.stdout
    assert "failed with exit code 2" in job.stdout


def test_without_the_token_nothing_is_submitted(head, tmp_path):
    before = len(head.jobs(head.token))
    without = head.submit("python", "-c", "pass", directory=tmp_path, HOME=str(tmp_path))
    wrong = head.submit("python", "-c", "pass", directory=tmp_path, RAY_AUTH_TOKEN="0" * 64)
    assert without.returncode != 0
    assert "couldn't find an authentication token" in without.stdout
    assert wrong.returncode != 0
    assert "Invalid authentication token" in wrong.stdout
    for token, status in [(None, 401), ("0" * 64, 403)]:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            head.jobs(token)
        refusal.value.close()
        assert refusal.value.code == status
    assert len(head.jobs(head.token)) == before


def test_what_git_ignores_is_not_uploaded(head, tmp_path):
    shutil.copy(PROJECT / ".gitignore", tmp_path)
    for path in [".git/objects/a", ".venv/bin/python", "out/pairs.tar", "runs/x.pt", "pipeline/ot.py", "build/b"]:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    job = head.submit("find", ".", "-type", "f", directory=tmp_path)
    assert job.returncode == 0, job.stdout
    uploaded = {line for line in job.stdout.splitlines() if line.startswith("./")}
    assert uploaded == {"./.gitignore", "./pipeline/ot.py"}
