"""Real images that the tests write in every format that the project reads."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def cifar(shared_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10 images uint8 [240, 32, 32, 3], and labels, sorted by class, so that class folders keep the order."""
    with np.load(shared_data / "cifar10_png" / "train3000.npz", allow_pickle=False) as archive:
        images, labels = archive["images"][:240], archive["labels"][:240]
    order = np.argsort(labels, kind="stable")
    return images[order], labels[order].astype(np.int64)
