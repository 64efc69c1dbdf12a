"""The largest n of a Sinkhorn block that fits a GPU, or with `--team` what each GPU of a team takes, as in `plan`."""

import sys

from flowpairs.pipeline.solve.device_memory import block_bytes

FREE = 0.9  # share of the memory that is used


def largest(gigabytes: float, d: int) -> int:
    """The largest power of two whose block fits."""
    n = 1
    while block_bytes(2 * n, 2 * n, d) <= FREE * gigabytes * 1e9:
        n *= 2
    return n


def sizes() -> None:
    """Print the largest n by features and by memory."""
    print("| features d | n in 24 GB | n in 80 GB |\n|---|---|---|")
    for d in (64, 256, 500, 3072):
        print(f"| {d:,} | {largest(24, d):,} | {largest(80, d):,} |")


def teams() -> None:
    """Print the memory of each GPU by the block and the number of GPUs that share it."""
    print("| n = m | features d | 1 GPU | 8 GPUs | 64 GPUs |\n|---|---|---|---|---|")
    for power in (19, 20, 21):
        for d in (64, 500):
            needs = [block_bytes(2**power, 2**power, d, team) for team in (1, 8, 64)]
            print(f"| 2^{power} | {d} | {' | '.join(f'{need / 1e9:.1f} GB' for need in needs)} |")


if __name__ == "__main__":
    teams() if sys.argv[1:] == ["--team"] else sizes()
