"""Couplings and training at once against one after the other, on the digits: seconds to first steps, to the end.

    python benchmarks/streaming.py [--rounds 2] [--pairs 262144] [--steps 1500]

The commands as a user gives them, each with a Ray of its own. `couple` and then `train` have all cores each; the two
processes of `stream` have half of them each. First steps are counted by the log's first line, after 50 of them.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from flowpairs.jobs.stream_config import StreamConfig
from flowpairs.pipeline.config import load, save

STREAM = Path(__file__).resolve().parents[1] / "configs" / "digits" / "stream.yaml"


def flowpairs(command: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flowpairs.jobs.cli", command, *arguments], stdout=subprocess.DEVNULL
    )


def seconds(run: Path, start: float, process: subprocess.Popen) -> tuple[float, float]:
    """From `start` to the first line of a run's log, and to the end of the process."""
    first = 0.0
    while process.poll() is None:
        if not first and (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").stat().st_size:
            first = time.monotonic() - start
        time.sleep(0.05)
    assert process.returncode == 0
    return first, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=262_144)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    together, apart = [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            changes = [f"couple.output.dir={root / 'a'}", f"train.output.dir={root / 'b'}"]
            changes += [f"couple.output.pairs={arguments.pairs}", f"train.train.steps={arguments.steps}"]
            start = time.monotonic()
            together.append(seconds(root / "b", start, flowpairs("stream", str(STREAM), *changes)))
            config = load(StreamConfig, STREAM, changes)
            for part in ("couple", "train"):
                save(getattr(config, part), root / f"{part}.yaml", part)
            start = time.monotonic()
            assert flowpairs("couple", str(root / "couple.yaml"), f"output.dir={root / 'c'}").wait() == 0
            pairs = ["pairs.source=shards", "pairs.patience=3600", f"pairs.dir={root / 'c'}"]
            training = flowpairs("train", str(root / "train.yaml"), *pairs, f"output.dir={root / 'd'}")
            apart.append(seconds(root / "d", start, training))
    ours, theirs = np.median(together, 0), np.median(apart, 0)
    print(f"| {arguments.pairs:,} pairs, {arguments.steps:,} steps | 50 steps after | all done after |\n|---|---|---|")
    print(f"| `stream` | {ours[0]:.0f} s | {ours[1]:.0f} s |")
    print(f"| `couple`, then `train` | {theirs[0]:.0f} s | {theirs[1]:.0f} s |")
    print(f"| ratio | {ours[0] / theirs[0]:.2f} | {ours[1] / theirs[1]:.2f} |")


if __name__ == "__main__":
    main()
