"""Memory and time of a coupling job, and of training on its pairs, as the data grow.

    python benchmarks/data_scale.py [--rows 25000 100000 400000] [--actors 1 2] [--side 64] [--directory DIR]

Data are images of 64x64x3 bytes (or of another side), made here and written as one .npy file (5 GB for 400,000). The
job finds 64 principal directions, couples blocks of up to 8,192 with payload ids, and a small network is trained on the
pairs for some steps. Peaks are the largest resident memory (VmHWM) of the driver, of an actor or task, and of a worker
of training; RssAnon is what of it is not mapped files. The object store is the largest use that Ray's store showed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WRITTEN = 2**27  # numbers that are made at once
FEATURES = 64
KINDS = {"ray::SolverActor": "actor", "ray::Map": "task", "ray::RayTrainWorker": "worker"}


def make_images(path: Path, rows: int, side: int) -> None:
    """Write random images of side x side x 3 bytes: 40 directions and noise."""
    rng = np.random.default_rng(0)
    width, shape = side * side * 3, (side, side, 3)
    basis = rng.standard_normal((40, width)).astype(np.float32)
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, *shape))
    step = WRITTEN // width
    for start in range(0, rows, step):
        count = min(step, rows - start)
        x = rng.standard_normal((count, 40)).astype(np.float32) * np.linspace(2, 0.2, 40, dtype=np.float32) @ basis
        x += 2 * rng.standard_normal((count, width)).astype(np.float32)
        out[start : start + count] = np.clip(8 * x + 127, 0, 255).astype(np.uint8).reshape(-1, *shape)
        out.flush()


def descendants(process: int) -> list[int]:
    """List a process and all that it started, those of Ray included."""
    found = [process]
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    except OSError:
        pass
    return found


def watched(command: list[str]) -> tuple[float, dict[str, tuple[int, int]], int]:
    """Run a command; return its seconds, peak and anonymous MB by kind of process, and MB of the object store."""
    began, peaks, store = time.monotonic(), dict[str, tuple[int, int]](), 0
    shm = Path("/dev/shm")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        for each in descendants(process.pid):
            try:
                status = dict(
                    line.split(":", 1) for line in Path(f"/proc/{each}/status").read_text().splitlines() if ":" in line
                )
                line = Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                values = int(status["VmHWM"].split()[0]) // 1024, int(status["RssAnon"].split()[0]) // 1024
            except (OSError, KeyError, ValueError):
                continue
            kind = "driver" if each == process.pid else next((k for n, k in KINDS.items() if line.startswith(n)), None)
            if kind is not None:
                before = peaks.get(kind, (0, 0))
                peaks[kind] = max(before[0], values[0]), max(before[1], values[1])
        used = sum(file.stat().st_blocks for file in shm.glob("plasma*")) * 512 // 2**20
        store = max(store, used)
        time.sleep(0.1)
    assert process.returncode == 0, f"{command} failed"
    return time.monotonic() - began, peaks, store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 100_000, 400_000])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--directory", type=Path, default=None, help="where the data and stores are written")
    options = parser.parse_args()
    print(
        "| images | rows, GB | features, MB | actors | couple, s | driver, MB (anonymous) | task | actor "
        "| object store, MB | train, s | worker, MB (anonymous) |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.directory) as temporary:
            root = Path(temporary)
            make_images(root / "images.npy", rows, options.side)
            for actors in options.actors:
                shutil.rmtree(root / "pairs", ignore_errors=True)
                shutil.rmtree(root / "run", ignore_errors=True)
                couple = {
                    "data": {"path": str(root / "images.npy")},
                    "features": {"pca": FEATURES},
                    "coupling": {"n": min(8192, rows), "rel_eps": 0.05},
                    "output": {"dir": str(root / "pairs"), "pairs": 16384, "payload": "ids"},
                    "cluster": {"actors": actors},
                }
                train = {
                    "pairs": {"dir": str(root / "pairs")},
                    "model": {"kind": "mlp", "width": 32, "depth": 1},
                    "train": {"steps": 60, "batch": 256, "warmup": 10, "checkpoint_every": 60, "log_every": 20},
                    "output": {"dir": str(root / "run")},
                    "cluster": {"workers": actors},
                }
                found = []
                for name, tree in (("couple", couple), ("train", train)):
                    (root / f"{name}.yaml").write_text(json.dumps(tree))
                    command = [sys.executable, "-m", "flowpairs.jobs.cli", name, str(root / f"{name}.yaml")]
                    found.append(watched(command))
                (seconds, peaks, store), (training, trained, _) = found
                shown = {kind: f"{high:,} ({anonymous:,})" for kind, (high, anonymous) in (peaks | trained).items()} | {
                    "driver": "{:,} ({:,})".format(*peaks["driver"])
                }
                features = rows * FEATURES * 4
                print(
                    f"| {rows:,} | {rows * options.side**2 * 3 / 1e9:.1f} | {features / 1e6:.0f} | {actors} "
                    f"| {seconds:.0f} | {shown['driver']} | {shown.get('task', '-')} | {shown.get('actor', '-')} "
                    f"| {store:,} | {training:.0f} | {shown.get('worker', '-')} |",
                    flush=True,
                )


if __name__ == "__main__":
    os.environ.pop("RAY_ADDRESS", None)
    main()
