"""The trend of what pairs are worth over the size of their coupling, held to the law that it assumes."""

import pytest

from flowpairs.training.metrics.worth import EULER, Worth
from flowpairs.training.metrics.worth_trend import extrapolate


def worth(figure: float) -> Worth:
    return Worth(1024, figure, figure / 4, {k: figure / k for k in EULER})


def test_a_law_that_holds_is_continued_whatever_its_constants() -> None:
    sizes = 256, 2048, 16_384
    found = extrapolate(sizes, [worth(10 + 30 * n ** (-1 / 3)) for n in sizes], 10**6)
    assert found.floor == pytest.approx(10.3)
    assert (found.curvature, found.errors[8]) == (pytest.approx(10.3 / 4), pytest.approx(10.3 / 8))
    two = extrapolate(sizes[:2], [worth(10 + 30 * n ** (-1 / 3)) for n in sizes[:2]], 10**6)
    assert two.floor == pytest.approx(10.3)


def test_trained_losses_of_fashion_mnist_are_continued_within_a_hundredth() -> None:
    """Losses of networks from docs/worth.md, at rel_eps .03, .1 and .3: n = 256, 2,048 and 16,384."""
    for low, middle, high in ((65.2, 56.9, 52.8), (66.7, 59.7, 56.7), (75.5, 73.2, 72.9)):
        assert extrapolate([256, 2048], [worth(low), worth(middle)], 16_384).floor == pytest.approx(high, rel=0.015)


def test_figures_that_rise_are_not_continued_and_none_is_below_nothing() -> None:
    assert extrapolate([256, 2048], [worth(5.0), worth(5.5)], 65_536).floor == 5.5
    assert extrapolate([2048], [worth(5.0)], 65_536) == worth(5.0)
    assert extrapolate([8, 64], [worth(5.0), worth(0.5)], 65_536).floor == 0
