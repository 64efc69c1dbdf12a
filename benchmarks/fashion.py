"""The benchmarks' problem: Fashion-MNIST in its principal directions against Gaussian noise.

Data come from the directory in FLOWPAIRS_DATA, by default ../shared/data: fashion_mnist/train8000.npz and test2000.npz
(arrays `images`). Beyond those 10,000 rows, mirrored and slightly blended copies make up the number.
"""

import os
from pathlib import Path

import numpy as np
import torch

DATA = Path(os.environ.get("FLOWPAIRS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def problem(n: int, d: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """n rows of noise and n of data, float32 [n, d]; `seed` changes the noise only."""
    parts = [np.load(DATA / "fashion_mnist" / name)["images"] for name in ("train8000.npz", "test2000.npz")]
    images = torch.from_numpy(np.concatenate(parts).reshape(10_000, -1)).float() / 127.5 - 1
    images -= images.mean(0)
    directions = torch.linalg.svd(images[::4], full_matrices=False).Vh[:d]
    x1 = images @ directions.T
    fixed = torch.Generator().manual_seed(1)
    x1 = x1[torch.randperm(len(x1), generator=fixed)]
    while len(x1) < n:
        other = x1[torch.randperm(len(x1), generator=fixed)]
        x1 = torch.cat([x1, 0.8 * x1 + 0.2 * other])
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), x1[:n].contiguous()
