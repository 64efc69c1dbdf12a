"""A real Ray head with token authentication, which jobs are submitted to through its HTTP address."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray.util
from prometheus_client.parser import text_string_to_metric_families
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE as DISCOVERY
from support.installed import write_own_modules

BIN = Path(sys.executable).parent
Series = dict[tuple[str, str, str], float]  # (name, tag `output`, tag `JobId`) -> value


@dataclass(frozen=True)
class Head:
    """A Ray head of its own: its addresses, token and directories, and the environment of those who use it."""

    address: str  # of the dashboard
    gcs: str
    environment: dict[str, str]
    token: str
    root: Path

    def flowpairs(self, *arguments: str, code: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
        """Run a command to its end; its output has what it said to both streams."""
        process = self.start(*arguments, code=code, **environment)
        try:
            out, _ = process.communicate(timeout=240)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out)

    def start(self, *arguments: str, code: Path | None = None, **environment: str) -> subprocess.Popen:
        """Start a command beside a user's own modules; `code` is a folder of packages to run instead."""
        path = {} if code is None else {"PYTHONPATH": str(code)}
        return subprocess.Popen(
            [sys.executable, "-m", "flowpairs.jobs.cli", *arguments],
            env=self.environment | {"RAY_ADDRESS": self.address} | path | environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # some shells start us with it ignored
        )

    def jobs(self, token: str | None) -> list[dict]:
        """What the dashboard lists; raises `HTTPError` where it refuses."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with urllib.request.urlopen(urllib.request.Request(f"{self.address}/api/jobs/", headers=headers)) as answer:
            return json.load(answer)

    @contextmanager
    def scraped(self) -> Iterator[Series]:
        """The last values of flowpairs' own series, read again and again as Prometheus does, until the block ends."""
        found, over = Series(), threading.Event()

        def read() -> None:
            while not over.wait(1.0):
                found.update(self.series())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield found
        finally:
            over.set()
            reader.join()
            found.update(self.series())

    def series(self) -> Series:
        """What is served now on the addresses that Ray's discovery file tells Prometheus of."""
        found, [group] = Series(), json.loads((self.root / "ray" / DISCOVERY).read_bytes())
        for target in group["targets"]:
            text = ""
            with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            # Ray's own are many, and take long to parse.
            ours = "".join(line for line in text.splitlines(keepends=True) if "ray_flowpairs_" in line)
            for family in text_string_to_metric_families(ours):
                for name, tags, value, *_ in family.samples:
                    if "le" not in tags:
                        found[name.removeprefix("ray_flowpairs_"), tags["output"], tags["JobId"]] = value
        return found

    @contextmanager
    def second(self) -> Iterator[None]:
        """Another raylet of one core, for a while, with files of its own as on another machine.

        Two raylets with the same files would unpack a job's code, and delete it, under each other's feet.
        """
        files = f"--temp-dir={self.root / '2'}"
        while self.nodes() > 1:  # an earlier one is taken for alive for a while after its death
            time.sleep(0.2)
        with ray_start(self.root, self.environment, "second", "--address", self.gcs, files, *agent_port()):
            while self.nodes() < 2:
                time.sleep(0.2)
            yield

    def nodes(self) -> int:
        """How many raylets live."""
        headers = {"Authorization": f"Bearer {self.token}"}
        asked = urllib.request.Request(f"{self.address}/nodes?view=summary", headers=headers)
        with urllib.request.urlopen(asked) as answer:
            listed = json.load(answer)["data"]["summary"]
        return sum(node["raylet"].get("state") == "ALIVE" for node in listed)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def agent_port() -> list[str]:
    return [f"--dashboard-agent-listen-port={free_ports(1)[0]}"]


@contextmanager
def ray_start(root: Path, environment: dict[str, str], name: str, *options: str) -> Iterator[subprocess.Popen]:
    """`ray start` with one core, until the block ends."""
    command = [str(BIN / "ray"), "start", "--block", "--num-cpus=1", "--disable-usage-stats", *options]
    with (root / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        # Not `ray stop`, which stops every Ray on the machine. Ray's own processes die with the one that started them.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    root = Path(tempfile.mkdtemp(prefix="ray-"))  # not tmp_path: Ray's socket names must stay under 108 characters
    write_own_modules(root)  # where commands are run; Ray puts a driver's directory on its workers' path
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(root), "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    environment["RAY_metrics_report_interval_ms"] = "5000"  # gauges are served for twice that after their job
    for key in ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):  # see tests/conftest.py
        environment[key] = os.environ[key]
    subprocess.run([str(BIN / "ray"), "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    gcs, dashboard, client = free_ports(3)
    options = ["--head", "--include-dashboard=true", f"--port={gcs}", f"--dashboard-port={dashboard}", *agent_port()]
    options += [f"--ray-client-server-port={client}", f"--temp-dir={root / 'ray'}"]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        process = stack.enter_context(ray_start(root, environment, "head", *options))
        token = (root / ".ray" / "auth_token").read_text()
        started = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment, token, root)
        wait_until_it_answers(started, process)
        yield started


def wait_until_it_answers(head: Head, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            head.jobs(head.token)
            return
        except urllib.error.URLError:
            time.sleep(0.5)
    pytest.fail(f"the head did not start:\n{(head.root / 'head.log').read_text()}")


@pytest.fixture(scope="module")
def scaling() -> Iterator[dict[str, str]]:
    """The environment of a head without CPUs, whose autoscaler may start two raylets of one CPU each, here."""
    root = Path(tempfile.mkdtemp(prefix="ray-"))
    [gcs] = free_ports(1)
    config = {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"{ray.util.get_node_ip_address()}:{gcs}",
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
    }
    commands = "initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"
    config |= {f"{name}_commands": [] for name in commands}
    (root / "autoscaling.json").write_text(json.dumps(config))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "HOME": str(root)}
    options = ["--head", "--num-cpus=0", f"--port={gcs}", "--include-dashboard=false", *agent_port()]
    options += [f"--temp-dir={root / 'ray'}", f"--autoscaling-config={root / 'autoscaling.json'}"]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        stack.enter_context(ray_start(root, environment, "head", *options))
        environment["RAY_ADDRESS"] = f"127.0.0.1:{gcs}"
        yield environment
