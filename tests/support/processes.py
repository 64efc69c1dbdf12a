"""Processes below this one, so that a test kills its own and none of a session that runs beside it."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from flowpairs.pipeline.config import CoupleConfig


def actors(name: str) -> list[int]:
    """The processes of Ray actors of a class, of a cluster that this process started, by /proc."""
    children: dict[int, list[int]] = {}
    titles: dict[int, bytes] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(entry.name)] = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(os.getpid(), []))
    for process in found:
        found += children.get(process, [])
    return [process for process in found if titles[process].startswith(f"ray::{name}".encode())]


def alive(process: int) -> bool:
    """Whether a process runs: it is there, and no zombie that nobody has waited for."""
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def two_raylets() -> tuple[Any, Any]:
    """A cluster of two raylets of one core, which this process is the driver of, and the raylet that it is not on."""
    import ray
    from ray._common.utils import reset_ray_address
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    # Where a cluster is killed its address stays in /tmp/ray, and each run of Ray Train then waits there for 12 s.
    reset_ray_address()
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    return cluster, other


def add_raylet(cluster: Any) -> None:
    """Add a raylet of one core, from a thread other than the main one, and stay: the raylet dies with its thread.

    Ray's handler of SIGTERM, which only the main thread can set, is left out.
    """
    from ray._private import utils

    setter = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        cluster.add_node(num_cpus=1)
    finally:
        utils.set_sigterm_handler = setter
    threading.Event().wait()


# Couples on a cluster of two raylets of one core, and kills the one member of a team as soon as its solve is on record.
BEREAVED = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, "tests")
import ray
from support.processes import actors, two_raylets
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.couple import couple

cluster, _ = two_raylets()
config, killed = load(CoupleConfig, sys.argv[1]), []

def kill_once():
    while not list(Path(config.output.dir).glob("potentials/*.checkpoint.npz")):
        time.sleep(0.002)
    for member in actors("Member"):
        killed.append(os.kill(member, signal.SIGKILL))

thread = threading.Thread(target=kill_once, daemon=True)
thread.start()
couple(config)
assert len(killed) == 1, killed
ray.shutdown()
cluster.shutdown()
"""


def couple_with_a_death(config: CoupleConfig, file: Path) -> None:
    """Run a job on two raylets, whose team loses a member in the middle of a solve; `file` gets the job's config.

    The job must be one of a team of two, and record every pass (`cluster.checkpoint_seconds: 0`).
    """
    file.write_text(json.dumps(config.model_dump(mode="json")))  # JSON is YAML
    command = [sys.executable, "-c", BEREAVED, str(file)]
    subprocess.run(command, env=outside(), check=True, timeout=240)


def outside() -> dict[str, str]:
    """This environment without the Ray of the test session."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
