"""What `flowpairs plan` forecasts against what `flowpairs couple` then takes, for some jobs, without Ray's own start.

    python benchmarks/plan.py [WORD]   # only the jobs whose name holds WORD

Each job is planned and run by processes of their own on a fresh local Ray. Its seconds are those of the whole command
but for the start of Ray and the driver's imports, and beside them stand those that the plan itself took; memory is that
of its largest actor, bytes those of its shards.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from fashion import DATA

FASHION = {"path": str(DATA / "fashion_mnist" / "train8000.npz"), "column": "images", "flips": True}
JOBS = {
    "digits, 8 blocks of 8,192": {
        "data": {"path": "digits", "label": "label"},
        "coupling": {"n": 8192, "resample": "repeat", "rel_eps": 0.03},
        "output": {"pairs": 65536, "pairs_per_shard": 4096},
    },
    "Fashion-MNIST, 8 blocks of 8,000": {
        "data": FASHION,
        "features": {"pca": 64},
        "coupling": {"n": 8000, "rel_eps": 0.1},
        "output": {"pairs": 64000},
    },
    "Fashion-MNIST, 4 blocks of 16,000": {
        "data": FASHION,
        "features": {"pca": 64},
        "coupling": {"n": 16000, "rel_eps": 0.03},
        "output": {"pairs": 64000, "payload": "seeded"},
    },
    "Fashion-MNIST, one block of 32,768": {
        "data": FASHION,
        "features": {"pca": 64},
        "coupling": {"n": 32768, "rel_eps": 0.03, "resample": "repeat"},
        "output": {"pairs": 32768, "payload": "ids"},
    },
    "CIFAR-10, 4 blocks of 50,000": {
        "data": {"path": str(DATA / "cifar10_train_jpeg"), "column": "img", "label": "label", "flips": True},
        "features": {"pca": 64},
        "coupling": {"n": 50000, "rel_eps": 0.03},
        "output": {"pairs": 200000},
    },
}
RUN = """
import json, sys, time
import ray
from flowpairs.pipeline import data
from flowpairs.pipeline.cluster.connect import connect
from flowpairs.pipeline.config import CoupleConfig, load
from flowpairs.pipeline.couple import couple
connect()
import flowpairs.pipeline.cluster.actors
rows, started = [], time.monotonic()
index = couple(load(CoupleConfig, sys.argv[1]), rows.append)
print(json.dumps({
    "seconds": time.monotonic() - started,
    "block_seconds": sum(max(row["solve_seconds"], row["write_seconds"]) for row in rows) / len(rows),
    "actor_bytes": max(row["peak_bytes"] for row in rows),
    "shard_bytes": sum(shard.bytes for shard in index.shards),
}))
"""


def run(program: list[str]) -> dict:
    """The JSON that a process prints last."""
    done = subprocess.run([sys.executable, *program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout.decode().strip().splitlines()[-1])


@dataclasses.dataclass
class Line:
    """One quantity, forecast and found."""

    forecast: float
    found: float
    unit: float

    def __str__(self) -> str:
        return f"{self.forecast / self.unit:8.2f} {self.found / self.unit:8.2f} {self.forecast / self.found:5.2f}"


def main() -> None:
    print("plan, job and their ratio for      | seconds      of a block | seconds of the job      | plan's | ", end="")
    print("GB of an actor          | MB of shards")
    for name, job in JOBS.items():
        if not all(word in name for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            config = Path(temporary) / "couple.yaml"
            job["output"]["dir"] = str(Path(temporary) / "out")
            config.write_text(json.dumps(job))  # JSON is YAML
            plan, found = run(["-m", "jobs.plan", str(config), "--json"]), run(["-c", RUN, str(config)])
        units = {"block_seconds": 1, "seconds": 1, "actor_bytes": 1e9, "shard_bytes": 1e6}
        lines = [str(Line(plan[key], found[key], unit)) for key, unit in units.items()]
        lines.insert(2, f"{plan['trial_seconds']:6.1f}")
        print(f"{name:34s} | " + " | ".join(lines), flush=True)


if __name__ == "__main__":
    main()
