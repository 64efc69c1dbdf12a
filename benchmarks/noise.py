"""Noise made again from its counter: gigabytes a second of one core, and what bounds them.

    python benchmarks/noise.py [--megabytes 256]

Beside the Gaussian rows stand the generator's raw words alone (numpy's Philox, as many bytes of words as there are of
float32 noise), and a copy of that many bytes, which is what memory gives. Medians over rounds, in CPU time, so that
other work on the machine counts little.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from flowpairs.pipeline.blocks import noise

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256)
    options = parser.parse_args()
    size, dim, step = options.megabytes * 2**20, 3072, 2**20
    source, target = np.ones(size // 8), np.empty(size // 8)
    source[:], target[:] = 1, 0

    def raw_words() -> None:
        for start in range(0, size // 32, step // 32):  # as the noise asks for them: in pieces that stay in the cache
            noise.words(0, noise.Stream.NOISE, start, step // 32)

    ways: dict[str, Callable[[], object]] = {
        f"Gaussian rows of {dim}": lambda: noise.gaussian(0, 0, size // (4 * dim), dim),
        "Gaussian rows of 64": lambda: noise.gaussian(0, 0, size // (4 * 64), 64),
        "raw words": raw_words,
        "copy": lambda: np.copyto(target, source),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    for name, times in seconds.items():
        print(f"{name}: {size / statistics.median(times) / 1e9:.2f} GB/s")


if __name__ == "__main__":
    main()
