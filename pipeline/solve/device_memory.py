"""What a device is called, and how large a Sinkhorn block its memory holds, by the arithmetic of docs/gpu.md."""

from bisect import bisect_right

STEP = 64  # features to a multiple of which the fused kernels fill points up
ENTRIES, PIECES = 3500, 2000  # bytes of a row's kept entries and of a column's pieces, with what solves for them
ROW = 1500  # bytes of a row's shares of the column groups
LARGEST = 2**31  # rows of a block that are never reached
FIXED = 2.5e9  # bytes of tiles, slabs of points, the entries beyond 64 of a row in few rows, and of CUDA itself
NUMBERS = 200  # bytes of a datum's potential, weight and places in orders, in a semi-discrete coupling
NOISE = 4e8  # bytes of noise that is being made


def device_name(device: str) -> str:
    """Return the name of this process's GPU, or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def gpu_bytes() -> int:
    """Return the bytes of memory of this process's GPU."""
    import torch

    return torch.cuda.mem_get_info()[1]


def block_bytes(n: int, m: int, d: int, team: int = 1) -> float:
    """Estimate the bytes of a GPU's memory that a Sinkhorn block of n x m rows of d features takes.

    The points are held in float32, and once more as what passes take: two halves in float16, or the factors of torch's
    products. Each member of a team holds all points, and the entries and pieces of its own rows.
    """
    return points_bytes(d) * (n + m) + ROW * n + (ENTRIES * n + PIECES * m) / team + FIXED


def data_bytes(ids: int, d: int) -> float:
    """Estimate the bytes of a GPU's memory that a semi-discrete coupling's data take, where their partners are found.

    The data are held in float32, and once more as what scores are made of; each has a few numbers beside. Members of a
    solve have a part each, without the former.
    """
    return (points_bytes(d) + NUMBERS) * ids + FIXED


def ahead_bytes(n: int, m: int, d: int, team: int, memory: float) -> float:
    """Estimate the bytes that the next block's points take, made while one is solved; 0 where they do not fit beside.

    Args:
        n: source rows of a block.
        m: target rows.
        d: features.
        team: actors that solve a block together.
        memory: what an actor has of a GPU's memory, in bytes.
    """
    more = 4 * d * (n + m) + NOISE
    return more if block_bytes(n, m, d, team) + more <= memory else 0.0


def largest_block(memory: float, d: int, team: int = 1) -> int:
    """Estimate the largest n = m whose block fits a GPU's memory, in bytes; 0 where none does."""
    return max(0, bisect_right(range(LARGEST), memory, key=lambda n: block_bytes(n, n, d, team)) - 1)


def points_bytes(d: int) -> int:
    """Compute the bytes of a point of d features, and of what passes take of it."""
    return 4 * (d + max(d + 1, -(-d // STEP) * STEP))
