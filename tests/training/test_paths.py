"""The path's velocity is its time derivative, and its ends are the pair."""

import torch

from training.paths import StraightPath


def test_velocity_is_the_derivative_of_the_point() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 7, 3, 4, generator=generator, dtype=torch.float64)
    t = torch.rand(7, generator=generator, dtype=torch.float64)
    path = StraightPath()
    _, derivative = torch.autograd.functional.jvp(lambda s: path.point(s, x0, x1), t, torch.ones_like(t))
    torch.testing.assert_close(path.velocity(t, x0, x1), derivative)


def test_ends_are_the_pair() -> None:
    x0, x1 = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1))
    path = StraightPath()
    assert torch.equal(path.point(torch.zeros(5), x0, x1), x0)
    assert torch.equal(path.point(torch.ones(5), x0, x1), x1)
