"""Random kills: jobs that lose a process at a random moment end in the bytes of jobs that were left alone.

    python tests/safety/kills.py [--kills 100] [--seed 0] [--jobs couple team semidiscrete convert train]

Each round runs one job on a Ray of its own, and sends SIGKILL to one of its processes, chosen at random: the driver, an
actor, a member of a team, a training worker, or the raylet of a second node. A job that ends early is started again, as
its user would. A round is a fault if the result differs from the undisturbed one, if it takes longer than twice the
undisturbed time and DETECTION, or if a process of it is left after a minute. Where other work slows the machine
down, the undisturbed time counts as longer, by as much as a fixed piece of work takes longer than during the
undisturbed run (`Pace`); rounds that needed it are counted apart.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DETECTION = 45.0  # seconds in which Ray notices that a node is gone, and starts a process anew
LINGER = 60.0  # seconds that processes may outlive their job
MARK = "FLOWPAIRS_KILLS"
NOBODY = "job"  # who is killed where a job ends before its moment: such a round is none of the kills
VICTIMS = ("ray::SolverActor", "ray::Member", "ray::RayTrainWorker", "ray::TrainController")

# A coupling job on two raylets of one core, of which the one without the driver may be killed.
TWO_NODES = """
import os, sys
from contextlib import suppress
sys.path.insert(0, "tests")
import ray
from support.processes import two_raylets
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.couple import couple

cluster, _ = two_raylets()
status = 0
try:
    couple(load(CoupleConfig, sys.argv[1]))
except Exception as error:
    print(f"failed: {error}", file=sys.stderr, flush=True)
    status = 1
with suppress(Exception):  # the test cluster minds that one of its processes is gone
    ray.shutdown()
    cluster.shutdown()
os._exit(status)
"""

ROOT = Path(__file__).resolve().parents[2]
DIGITS = {"path": "digits", "label": "label"}
JOBS: dict[str, dict[str, Any]] = {
    "couple": {
        "data": DIGITS,
        "coupling": {"n": 1797, "rel_eps": 0.01},
        "output": {"pairs": 40 * 1797, "payload": "full"},
        "cluster": {"actors": 2, "checkpoint_seconds": 0.2},
    },
    "team": {
        "data": DIGITS,
        "coupling": {"n": 1797, "rel_eps": 0.01},
        "output": {"pairs": 12 * 1797, "payload": "ids"},
        "cluster": {"actors": 2, "actors_per_block": 2, "checkpoint_seconds": 0},
    },
    "semidiscrete": {
        "data": DIGITS | {"flips": True},
        "coupling": {"n": 1000, "method": "semidiscrete", "rel_eps": 0, "chi2": 0.01},
        "output": {"pairs": 20_000, "payload": "ids"},
        "cluster": {"actors": 2, "checkpoint_seconds": 0},
    },
    "convert": {"payload": "full"},
    "train": {
        "model": {"kind": "mlp", "width": 64, "depth": 2},
        "train": {"steps": 1500, "batch": 256, "checkpoint_every": 100, "log_every": 50},
        "cluster": {"workers": 2},
    },
}


class Pace:
    """How long a fixed piece of work takes, measured all the time by a process with the priority of Ray's workers."""

    WORK = "import os, time; os.nice(15)\nwhile True:\n t = time.perf_counter(); sum(range(4_000_000))\n " + (
        "print(time.perf_counter() - t, flush=True); time.sleep(1)"
    )

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", self.WORK], stdout=subprocess.PIPE, text=True)
        self._seen: list[tuple[float, float]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._seen.append((time.monotonic(), float(line)))

    def since(self, began: float) -> float:
        """Compute the mean seconds of the work since a time of `time.monotonic`, or of the last one."""
        found = [seconds for at, seconds in self._seen if at >= began] or [self._seen[-1][1]]
        return sum(found) / len(found)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Undisturbed:
    """What a job takes and makes when it is left alone: seconds, the machine's pace meanwhile, the result."""

    seconds: float
    pace: float
    result: dict[str, str]


class Round:
    """One run of a job in a directory of its own.

    Args:
        name: one of JOBS.
        directory: directory for its config and output.
        pairs: finished pair store that conversions and trainings read.
    """

    def __init__(self, name: str, directory: Path, pairs: Path) -> None:
        self.name, self.out, self.token = name, directory / "out", f"{name}-{random.getrandbits(64):x}"
        directory.mkdir(parents=True)
        config = directory / "job.yaml"
        tree = JOBS[name] | {"output": JOBS[name].get("output", {}) | {"dir": str(self.out)}}
        commands = [sys.executable, "-m", "flowpairs.jobs.cli"]
        if name == "convert":
            self.command = [*commands, "convert", str(pairs), str(self.out), "--payload", "full"]
        elif name == "train":
            config.write_text(json.dumps(tree | {"pairs": {"dir": str(pairs)}}))
            self.command = [*commands, "train", str(config)]
        else:
            config.write_text(json.dumps(tree))
            two = name in ("team", "semidiscrete")
            self.command = [sys.executable, "-c", TWO_NODES, str(config)] if two else [*commands, "couple", str(config)]
        self.log = (directory / "log").open("a")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the job, or start it again."""
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        environment |= {MARK: self.token, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
        return subprocess.Popen(self.command, env=environment, stdout=self.log, stderr=self.log, cwd=ROOT)

    def processes(self) -> dict[int, str]:
        """Find the living processes of the job by the mark in their environment, with their command lines."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{MARK}={self.token}".encode() in (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if marked and state != "Z":
                    found[int(entry.name)] = (
                        (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    def victim(self, driver: int) -> tuple[int, str] | None:
        """Choose a kind of process, and one of that kind."""
        kinds: dict[str, list[int]] = {"driver": [driver]}
        raylets = []
        for process, line in self.processes().items():
            if kind := next((kind for kind in VICTIMS if line.startswith(kind)), None):
                kinds.setdefault(kind, []).append(process)
            elif line.split(" ")[0].endswith("/raylet/raylet"):
                raylets.append(process)
        if len(raylets) == 2:
            kinds["second raylet"] = [max(raylets)]
        kind = random.choice(sorted(kinds))
        return random.choice(kinds[kind]), kind

    def result(self) -> dict[str, str]:
        """Hash what must not differ: shards and potentials; of a run, the steps (its sums depend on their order)."""
        if self.name == "train":
            return {"steps": str(json.loads((self.out / "train.json").read_text())["steps"])}
        files = [*self.out.glob("shards/*.tar"), *self.out.glob("potentials/*.npy"), self.out / "index.json"]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


def undisturbed(name: str, directory: Path, pairs: Path, pace: Pace) -> Undisturbed:
    """Run a job to its end."""
    job, began = Round(name, directory, pairs), time.monotonic()
    assert job.start().wait() == 0, (directory / "log").read_text()[-2000:]
    return Undisturbed(time.monotonic() - began, pace.since(began), job.result())


def disturbed(job: Round, alone: Undisturbed, pace: Pace) -> tuple[str, list[str], bool]:
    """Run a job, kill one of its processes at a random moment, and see it to its end.

    Returns:
        Who was killed, the faults, and whether the limit was one of a slower machine.
    """
    began, moment = time.monotonic(), random.uniform(0, alone.seconds)
    driver, who, faults = job.start(), NOBODY, list[str]()
    while driver.poll() is None and time.monotonic() - began < moment:
        time.sleep(0.01)
    if driver.poll() is None:
        victim, who = job.victim(driver.pid) or (driver.pid, "driver")
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            who = NOBODY
    starts, slower = 1, 1.0
    while driver.poll() != 0:
        taken = time.monotonic() - began
        if taken > 2 * alone.seconds + DETECTION:
            slower = max(1.0, pace.since(began) / alone.pace)
        if taken > 2 * alone.seconds * slower + DETECTION:
            faults.append(f"not done after {taken:.0f} s")
            break
        if driver.poll() is not None:
            driver, starts = job.start(), starts + 1
        time.sleep(0.05)
    taken = time.monotonic() - began
    if not faults and job.result() != alone.result:
        faults.append("another result")
    end = time.monotonic() + LINGER
    while (left := job.processes()) and time.monotonic() < end and not faults:
        time.sleep(0.5)
    if left and not faults:
        faults.append(f"left after {LINGER:.0f} s: {sorted({line[:60] for line in left.values()})}")
    for process in left:
        os.kill(process, signal.SIGKILL)
    remarks = [f"machine {slower:.1f} times as slow"] if slower > 1 else []
    told = "; ".join([*remarks, *faults])
    when = "had ended before" if who == NOBODY else "killed at"
    print(f"{job.name}: {who} {when} {moment:.1f} s; {starts} starts, {taken:.1f} s {told}", flush=True)
    return who, faults, slower > 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    options = parser.parse_args()
    random.seed(options.seed)
    counts, faults, slow, pace = Counter[str](), 0, 0, Pace()
    with tempfile.TemporaryDirectory(prefix="flowpairs-kills-") as temporary:
        root = Path(temporary)
        print("each job is run once undisturbed, which takes some minutes", flush=True)
        undisturbed("team", root / "pairs", root, pace)
        pairs = root / "pairs" / "out"
        alone = dict[str, Undisturbed]()
        for name in options.jobs:
            alone[name] = undisturbed(name, root / "undisturbed" / name, pairs, pace)
            print(f"{name}: {alone[name].seconds:.1f} s undisturbed", flush=True)
        rounds = killed = 0
        while killed < options.kills:
            name, directory = options.jobs[rounds % len(options.jobs)], root / f"{rounds:04d}"
            who, wrong, slower = disturbed(Round(name, directory, pairs), alone[name], pace)
            rounds += 1
            slow += slower
            killed += who != NOBODY
            counts[f"{name}: {who}"] += 1
            faults += bool(wrong)
            if wrong:
                print((directory / "log").read_text()[-3000:])
            shutil.rmtree(directory, ignore_errors=True)
    width = max(map(len, counts))
    print("\n".join(f"{what:{width}} {count:4d}" for what, count in sorted(counts.items())))
    pace.stop()
    slowly = f"{slow} took longer than twice their time, on a slower machine"
    print(f"{killed} kills in {rounds} rounds, {faults} faults; {slowly}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
