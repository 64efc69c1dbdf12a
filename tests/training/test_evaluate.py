"""What an evaluation leaves for the report, where its figures are not held to account in test_trainer.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import MLP, write_run

from flowpairs.training.config import EvaluateConfig
from flowpairs.training.evaluate import trajectories
from flowpairs.training.run.trained import read_trained
from flowpairs.training.sampling.sampler import Sampler


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((2,), (64, 33, 2)), ((5,), (64, 33, 2)), ((1, 4, 4), (8, 9, 1, 4, 4)), ((4, 2, 2), (64, 33, 2)), ((1,), None)],
)
def test_trajectories_lead_from_the_noise_to_the_samples(
    shape: tuple[int, ...], drawn: tuple[int, ...] | None, tmp_path: Path
) -> None:
    """Images as they are; what is neither image nor planar on two principal directions, by NumPy's own SVD."""
    write_run(tmp_path, MLP, shape)
    real = np.random.default_rng(0).normal(size=(200, *shape)) * np.arange(1, shape[-1] + 1)
    sampler = Sampler(read_trained(tmp_path), EvaluateConfig(samples=64), None, torch.device("cpu"))
    paths = trajectories(sampler, torch.from_numpy(real).float())
    if drawn is None:
        assert paths is None
        return
    assert paths is not None
    assert paths.shape == drawn
    noise, samples = (
        x[: len(paths)].numpy() for x in (sampler.starts(slice(0, 64)), sampler.samples("dopri5", None)[0])
    )
    if len(drawn) == 3 and shape != (2,):
        flat = real.reshape(200, -1)
        directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:2].T
        noise, samples = ((x.reshape(64, -1) - flat.mean(0)) @ directions for x in (noise, samples))
        noise, samples, paths = np.abs(noise), np.abs(samples), np.abs(paths)  # a direction's sign is free
    np.testing.assert_allclose(paths[:, 0], noise, atol=1e-4)
    np.testing.assert_allclose(paths[:, -1], samples, atol=1e-3)
