"""Pairs per second: this project's loader against plain webdataset on the same shards, and against the disk.

    python benchmarks/loader.py [--megabytes 400]

For vectors of 64, images of 28x28 and of 32x32x3, a store is written and then read three ways, in turn and several
times, by one process: by the loader that training uses (exact epochs, shuffled, 8 arcs, batches of 256), by plain
webdataset decoding the same fields in order, and as bytes that are thrown away. All files are in the page cache, so the
disk's line is what memory gives. Ratios are medians over the rounds.

Then stores of ids, of 32x32x3 bytes and of latents [4, 32, 32] in float16, in pairs per second of CPU time of all
threads: with x0 and x1 decoded window by window, as for narrow pairs; with windows of ids; and with rows as they are
stored, whose x0 and x1 are made on the device that trains.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset as wds

from flowpairs.pipeline.config import DataConfig
from flowpairs.pipeline.data import DataSpec
from flowpairs.pipeline.data.rows.make import save_target, target_of
from flowpairs.pipeline.store import format
from flowpairs.pipeline.store.records import Record
from flowpairs.pipeline.store.writer import write_shard
from flowpairs.training.pairs.batch import BatchPart
from flowpairs.training.pairs.loader import ShardLoader
from flowpairs.training.pairs.reading import shards as reading
from flowpairs.training.pairs.reading.order import arcs_for

SHAPES = {"vectors of 64": (64,), "images 28x28": (1, 28, 28), "images 32x32x3": (3, 32, 32)}
PER_SHARD, BATCH, ROUNDS = 4096, 256, 5
IDS = {"images 32x32x3, uint8": ((3, 32, 32), "uint8"), "latents 4x32x32, float16": ((4, 32, 32), "float16")}
IDS_PER_SHARD, IDS_BATCH = 2**16, 1024


def make_store(directory: Path, shape: tuple[int, ...], pairs: int) -> format.Index:
    """A store of random pairs, payload full."""
    (directory / "shards").mkdir(parents=True)
    rng, shards = np.random.default_rng(0), []
    step = format.pairs_per_record(shape, "full")
    for number in range(pairs // PER_SHARD):
        records = []
        for start in range(0, PER_SHARD, step):
            k = min(step, PER_SHARD - start)
            x0, x1 = (rng.standard_normal((k, *shape), np.float32) for _ in range(2))
            rows = number * PER_SHARD + start + np.arange(k)
            records.append(Record(start, x0, x1, rng.integers(0, pairs, k), None, 0, rows))
        shards.append(write_shard(directory, number, number, records, number * PER_SHARD, {}).shard)
    index = format.Index("h", "f", len(shards) * PER_SHARD, shape, 0, "full", "independent", "", tuple(shards))
    format.write_index(directory, index)
    return index


def by_loader(directory: Path, index: format.Index) -> float:
    """Pairs per second of training's loader, over one epoch."""
    with ShardLoader(directory, index, BatchPart(BATCH, 0, 1, arcs_for(BATCH, 1)), seed=0) as loader:
        for _ in range(index.pairs // BATCH):  # the first epoch also checks every hash
            next(loader)
        start = time.perf_counter()
        for _ in range(index.pairs // BATCH):
            next(loader)
        return index.pairs / (time.perf_counter() - start)


def by_webdataset(directory: Path, index: format.Index) -> float:
    """Pairs per second of plain webdataset in the shards' order, decoded by itself, copied into batches."""
    urls = [str(directory / "shards" / shard.name) for shard in index.shards]
    start, seen = time.perf_counter(), 0
    for sample in wds.WebDataset(urls, shardshuffle=False).decode(only=["x0.npy", "x1.npy"]):
        for first in range(0, len(sample["x0.npy"]), BATCH):
            part = slice(first, first + BATCH)
            seen += len(torch.from_numpy(sample["x0.npy"][part].copy()))
            torch.from_numpy(sample["x1.npy"][part].copy())
    assert seen == index.pairs
    return index.pairs / (time.perf_counter() - start)


def by_disk(directory: Path, index: format.Index) -> float:
    """Pairs per second if reading the bytes were all."""
    start = time.perf_counter()
    buffer = bytearray(2**20)
    for shard in index.shards:
        with (directory / "shards" / shard.name).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return index.pairs / (time.perf_counter() - start)


def make_ids(directory: Path, shape: tuple[int, ...], dtype: str, pairs: int) -> format.Index:
    """A store of ids of random rows."""
    rng, shards, data = np.random.default_rng(0), [], 20_000
    bits = rng.integers(0, 256, (data, *shape), np.uint8)
    x = bits if dtype == "uint8" else (bits / 127.5 - 1).astype(dtype)
    spec = DataSpec(data, shape, 0, "image", 1, dtype)
    target = save_target(target_of(DataConfig(path="memory"), spec, x, {}), directory / "rows")
    (directory / "shards").mkdir(parents=True)
    for number in range(pairs // IDS_PER_SHARD):
        rows = number * IDS_PER_SHARD + np.arange(IDS_PER_SHARD)
        record = Record(0, None, None, rng.integers(0, data, IDS_PER_SHARD), None, 0, rows)
        shards.append(write_shard(directory, number, number, [record], int(rows[0]), {}, "ids").shard)
    index = format.Index("h", target.fingerprint, pairs, shape, 0, "ids", "independent", "", tuple(shards))
    format.write_index(directory, index)
    return index


def cpu_rate(directory: Path, index: format.Index, batches: int, **options: bool) -> float:
    """Pairs per second of CPU time of all threads."""
    with ShardLoader(directory, index, BatchPart(IDS_BATCH, 0, 1, arcs_for(IDS_BATCH, 1)), seed=0, **options) as loader:
        for _ in range(8):
            next(loader)
        start, taken = time.process_time(), 0
        for _ in range(batches):
            next(loader)
            taken += IDS_BATCH
        return taken / (time.process_time() - start)


def by_id_table() -> None:
    """Print the table of stores of ids."""
    print("\n| pairs of ids | decoded, pairs/CPU s | windows of ids | stored rows | stored / decoded |")
    print("|---|---|---|---|---|")
    for name, (shape, dtype) in IDS.items():
        with tempfile.TemporaryDirectory() as temporary:
            index = make_ids(Path(temporary), shape, dtype, 16 * IDS_PER_SHARD)
            found = []
            for _ in range(3):
                wide, reading.WIDE = reading.WIDE, 2**62
                decoded = cpu_rate(Path(temporary), index, 40)
                reading.WIDE = wide
                by_id = cpu_rate(Path(temporary), index, 40)
                found.append((decoded, by_id, cpu_rate(Path(temporary), index, 400, on_device=True)))
        decoded, by_id, stored = (statistics.median(values) for values in zip(*found, strict=True))
        ratio = statistics.median(third / first for first, _, third in found)
        print(f"| {name} | {decoded:,.0f} | {by_id:,.0f} | {stored:,.0f} | {ratio:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400, help="size of each store")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways: dict[str, Callable[[Path, format.Index], float]] = {
        "loader": by_loader,
        "webdataset": by_webdataset,
        "disk": by_disk,
    }
    print("| pairs | loader, pairs/s | GB/s | plain webdataset, pairs/s | loader / webdataset | loader / disk |")
    print("|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        pairs = max(4, options.megabytes * 2**20 // (8 * int(np.prod(shape))) // PER_SHARD) * PER_SHARD
        with tempfile.TemporaryDirectory() as temporary:
            index = make_store(Path(temporary), shape, pairs)
            rates = [{way: read(Path(temporary), index) for way, read in ways.items()} for _ in range(ROUNDS)]
        median = {way: statistics.median(rate[way] for rate in rates) for way in ways}
        over = {way: statistics.median(rate["loader"] / rate[way] for rate in rates) for way in ways}
        gigabytes = median["loader"] * 8 * int(np.prod(shape)) / 1e9
        print(
            f"| {name} | {median['loader']:,.0f} | {gigabytes:.2f} | {median['webdataset']:,.0f} "
            f"| {over['webdataset']:.2f} | {over['disk']:.2f} |"
        )
    by_id_table()


if __name__ == "__main__":
    main()
