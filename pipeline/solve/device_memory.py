"""What a device is called, and how large a block its memory holds."""

POINT, ENTRIES, TILES = 28, 6400, 1.2e9  # bytes of a number of a point, of a row's kept entries, and of the tiles


def device_name(device: str) -> str:
    """Return the name of this process's GPU, or "cpu"."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def gpu_bytes() -> int:
    """Return the bytes of memory of this process's GPU."""
    import torch

    return torch.cuda.mem_get_info()[1]


def block_bytes(n: int, m: int, d: int) -> float:
    """Estimate the bytes of a GPU's memory that a block of n x m rows of d features takes, tile by tile of torch.

    Points are held in float32 and float64 with what is made of them, 64 entries of a row with what solves for them.
    """
    return POINT * (n + m) * d + ENTRIES * n + TILES


def largest_block(memory: float, d: int) -> int:
    """Estimate the largest n = m whose block fits a GPU's memory, in bytes; 0 where none does."""
    return max(0, int((memory - TILES) / (2 * POINT * d + ENTRIES)))
