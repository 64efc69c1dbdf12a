"""Features of noise made on a device, against those of numpy. Here the device is the CPU."""

import numpy as np
import pytest
import torch

from flowpairs.pipeline.blocks.device_noise import device_features
from flowpairs.pipeline.blocks.features import Features

SEED, FIRST = 2**62 + 11, 2**39 + 5


def test_without_directions_they_are_the_noise_bit_for_bit() -> None:
    features = Features(np.zeros(13, np.float32), None)
    ours = device_features(features, SEED, FIRST, 70, "cpu").numpy()
    assert np.array_equal(ours.view(np.int32), features.of_noise(SEED, FIRST, 70).view(np.int32))


@pytest.mark.parametrize("dim", [9, 12288])  # of the second, a block of rows takes several chunks
def test_with_directions_they_are_the_exact_sums_rounded_once(dim: int) -> None:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, 5)))[0].astype(np.float32)
    features, rows = Features(np.zeros(dim, np.float32), basis), 1400 if dim > 9 else 50
    ours = device_features(features, SEED, FIRST, rows, "cpu")
    plain = Features(np.zeros(dim, np.float32), None).of_noise(SEED, FIRST, rows)
    wanted = torch.from_numpy(features.exactly(plain))
    torch.testing.assert_close(ours.double(), wanted, rtol=2**-23, atol=1e-12)
