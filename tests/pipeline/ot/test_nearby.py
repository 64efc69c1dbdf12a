"""The order of points by nearness: a permutation whose runs are small in space, at any number of features."""

import pytest
import torch

from flowpairs.pipeline.ot.tiles.nearby import nearby_order


@pytest.mark.parametrize(("count", "features"), [(1, 3), (31, 2), (1000, 2), (1000, 200)])
def test_it_is_a_permutation_of_near_runs(count: int, features: int) -> None:
    scale = torch.full((features,), 0.01)
    scale[-2:] = 1.0
    points = torch.randn(count, features, generator=torch.Generator().manual_seed(0)) * scale
    order = nearby_order(points)
    assert torch.equal(order.sort().values, torch.arange(count))
    if count >= 1000:
        within = torch.stack([points[run].var(0).sum() for run in order.tensor_split(16)]).mean()
        assert within < 0.3 * points.var(0).sum()


def test_equal_points_keep_their_order() -> None:
    assert torch.equal(nearby_order(torch.ones(100, 4)), torch.arange(100))
