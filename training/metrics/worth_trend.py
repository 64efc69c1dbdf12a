"""What pairs of a larger coupling are worth, by the trend over smaller ones that could be tried.

Of blocks of n rows, loss and curvature fall towards those of the coupling of all noise and all data. They are taken to
do so as n^(-1/3): the losses of networks trained on Fashion-MNIST (docs/worth.md) at n = 256 and 2,048 then give that
at n = 16,384 within 1.5 per cent.
"""

from collections.abc import Sequence

import numpy as np

from flowpairs.training.metrics.worth import Worth

POWER = -1 / 3


def extrapolate(sizes: Sequence[int], found: Sequence[Worth], size: int) -> Worth:
    """Extrapolate from couplings of some sizes to a larger one, from where the largest of them stands.

    Each figure y is taken to be y_last + b (n^(-1/3) - n_last^(-1/3)), with the b of least squares, or 0 where figures
    rise with the size; none falls below 0.

    Args:
        sizes: sizes that were tried, rising; of one alone, its figures are returned.
        found: their figures, from the same number of pairs.
        size: the larger size.
    """
    last = found[-1]

    def at(figures: Sequence[float]) -> float:
        if len(sizes) == 1:
            return figures[-1]
        x = np.asarray(sizes, np.float64) ** POWER
        slope = max(0.0, float(np.polyfit(x, figures, 1)[0]))
        return max(0.0, figures[-1] + slope * (size**POWER - float(x[-1])))

    return Worth(
        last.pairs,
        at([worth.floor for worth in found]),
        at([worth.curvature for worth in found]),
        {k: at([worth.errors[k] for worth in found]) for k in last.errors},
    )
