"""The largest n of a Sinkhorn block that fits a device, by the arithmetic of docs/how-to/one-gpu.md."""

POINT, SURROGATE, TILES = 28, 26_000, 1.1e9  # bytes: a row and feature of a side, a row, in all
FREE = 0.9  # share of the memory that is used


def block_bytes(n: int, d: int) -> float:
    """Bytes of a block of n x n rows with d features."""
    return POINT * 2 * n * d + SURROGATE * n + TILES


def largest(gigabytes: float, d: int) -> int:
    """The largest power of two whose block fits."""
    n = 1
    while block_bytes(2 * n, d) <= FREE * gigabytes * 1e9:
        n *= 2
    return n


if __name__ == "__main__":
    print("| features d | n in 24 GB | n in 80 GB |\n|---|---|---|")
    for d in (64, 256, 500, 3072):
        print(f"| {d:,} | {largest(24, d):,} | {largest(80, d):,} |")
