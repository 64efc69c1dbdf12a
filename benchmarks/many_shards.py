"""Seconds and memory of what handles a store as a whole, for a store of very many shards.

    python benchmarks/many_shards.py [--shards 100000] [--directory out/many]

A job of one block makes the store's own files; the other blocks' shards and sidecars are written directly, each of a
few pairs of data ids, as the coupling job would write them but for the syncing of every file. Then each command runs as
a process of its own: `status`, `couple` on the finished store, `verify`, `couple` after one shard was removed, which
finishes the store again, and the check before training. Given are wall time and CPU time, with the start of Python,
and the largest resident memory.
"""

import argparse
import dataclasses
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import numpy as np

from flowpairs.pipeline.base.npy import encode_npy
from flowpairs.pipeline.blocks.division import Blocks
from flowpairs.pipeline.config import CoupleConfig, load, save, validate
from flowpairs.pipeline.couple import couple
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.block_reports import write_blocks

PAIRS = 16  # per block, which is one shard
COMMAND = [sys.executable, "-m", "flowpairs.jobs.cli"]


def settings(directory: Path, shards: int) -> CoupleConfig:
    tree = {
        "data": {"path": "digits", "label": "label"},
        "coupling": {"method": "independent", "n": PAIRS},
        "output": {"dir": str(directory), "pairs": shards * PAIRS, "payload": "ids"},
        "cluster": {"actors": 0},
    }
    return validate(CoupleConfig, tree)


def make_store(directory: Path, shards: int) -> None:
    """A finished store of `shards` blocks of one shard each."""
    first = couple(settings(directory, 1))
    earlier = load(CoupleConfig, directory / "config.yaml")
    config = earlier.model_copy(update={"output": earlier.output.model_copy(update={"pairs": shards * PAIRS})})
    blocks = Blocks(PAIRS, row_set.read_manifest(directory / "rows").rows, shards * PAIRS, PAIRS, 0)
    (directory / "config.yaml").unlink()
    save(config, directory / "config.yaml", "benchmarks/many_shards.py")
    sidecar = format.read_sidecar(format.sidecar_path(directory, first.shards[0].name))
    entries, reports = list(first.shards), [sidecar.report]
    for block in range(1, shards):
        ids = blocks.data_ids(block)
        data = tar_of(block, ids)
        shard = format.Shard(format.shard_name(block), block, PAIRS, 1, len(data), sha256(data).hexdigest())
        report = sidecar.report | {"block": block}
        (directory / "shards" / shard.name).write_bytes(data)
        counted = format.Sidecar(shard, block * PAIRS, (int(ids.min()), int(ids.max())), report)
        path = format.sidecar_path(directory, shard.name)
        assert isinstance(path, Path)
        path.write_text(json.dumps(dataclasses.asdict(counted), indent=1, sort_keys=True) + "\n")
        entries.append(shard)
        reports.append(report)
    write_blocks(directory, reports)
    hashed = settings(directory, shards).model_copy(update={"data": earlier.data})
    index = dataclasses.replace(first, pairs=shards * PAIRS, shards=tuple(entries))
    format.write_index(directory, dataclasses.replace(index, config_hash=digest_of(hashed)))


def digest_of(config: CoupleConfig) -> str:
    from flowpairs.pipeline.config import digest

    return digest(config.determining())


def tar_of(block: int, ids: np.ndarray) -> bytes:
    """A shard of one record of data ids."""
    key, buffer = format.record_key(block, 0), io.BytesIO()
    meta = {"block": block, "seed": 0, "first_noise_counter": block * PAIRS}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (("id.npy", encode_npy(ids.astype("<u4"))), ("meta.json", json.dumps(meta).encode())):
            info = tarfile.TarInfo(f"{key}.{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# Runs a command and prints its seconds and its largest memory: in a small process, whose memory a child begins with.
MEASURE = (
    "import resource, subprocess, sys, time; began = time.perf_counter()\n"
    "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)\n"
    "seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)\n"
    "print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10)\n"
    "sys.exit(done.stdout[-2000:] if done.returncode else 0)"
)


def measured(name: str, *command: str) -> None:
    """Run a command to its end, and print a row of the table."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    seconds, busy, memory = map(float, done.stdout.split())
    print(f"| {name} | {seconds:.1f} | {busy:.1f} | {memory:.0f} |", flush=True)


CHECK = (
    "import sys; from flowpairs.training.config import TrainConfig; from flowpairs.pipeline.config import validate\n"
    "from flowpairs.training.run.directory import check_run\n"
    "check_run(validate(TrainConfig, {'pairs': {'dir': sys.argv[1]}, 'model': {'kind': 'mlp'}, "
    "'train': {'steps': 9, 'warmup': 1}, "
    "'output': {'dir': sys.argv[1] + '-run'}}))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--directory", type=Path, help="a store that is there is used again; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.directory or Path(temporary) / "store").absolute()
        if not (directory / "index.json").is_file():
            began = time.perf_counter()
            make_store(directory, options.shards)
            print(f"{options.shards:,} shards written in {time.perf_counter() - began:.0f} s", flush=True)
        recipe = Path(temporary) / "couple.yaml"
        save(settings(directory, options.shards), recipe, "benchmarks/many_shards.py")
        print("| command | seconds | CPU seconds | MB |\n|---|---|---|---|")
        measured("the start of Python alone (`--help`)", *COMMAND, "--help")
        measured("`status`", *COMMAND, "status", str(directory))
        measured("`couple`, finished", *COMMAND, "couple", str(recipe))
        measured("`verify`", *COMMAND, "verify", str(directory))
        measured("the check before `train`", sys.executable, "-c", CHECK, str(directory))
        lost = directory / "shards" / format.shard_name(options.shards // 2)
        before = lost.read_bytes()
        lost.unlink()
        measured("`couple`, one shard lost", *COMMAND, "couple", str(recipe))
        assert len(lost.read_bytes()) == len(before)
        (directory / "index.json").unlink()
        measured("`status`, no index", *COMMAND, "status", str(directory))
        measured("`couple`, no index", *COMMAND, "couple", str(recipe))


if __name__ == "__main__":
    main()
