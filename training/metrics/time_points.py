"""Comparison of a flow over time with the data at each time point, including the points left out of training.

As in arXiv 2302.00482, section 5.3: the flow moves the data of the last earlier training point to the time point, and
the 1-Wasserstein distance compares them with the data there.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from flowpairs.training.config import EvaluateConfig
from flowpairs.training.metrics.frechet import Principal
from flowpairs.training.pairs.endpoints import Endpoints
from flowpairs.training.run.trained import Trained
from flowpairs.training.sampling.sampler import Sampler

MOST, DRAWN = 2_000, 256  # largest numbers of data per point: moved and compared, and drawn in the report


def measure_time_points(
    trained: Trained, config: EvaluateConfig, endpoints: Endpoints, device: torch.device
) -> tuple[list[dict[str, Any]], Float32[np.ndarray, "points 2 k 2"]]:
    """Measure W1 at every time point after the first training point, and prepare the points to draw.

    Args:
        trained: the network.
        config: the configuration of the evaluation.
        endpoints: the data at every time point of the chain.
        device: the device to sample on.

    Returns:
        One row per time point for evaluation.json, with W1 and W2 of the flow's points, `w1` and `w2`, and W1 of the
        earlier data left where they were, `w1_still`, all in units of x, and `mmd` of the flow's points; and per time
        point the data and the flow's points on the two principal directions of all data, padded with NaN to DRAWN rows.
    """
    principal = Principal.fit(torch.cat([point.x for point in endpoints.points]), 2)
    first = next(number for number, point in enumerate(endpoints.points) if not point.left_out)
    before, led_to = endpoints.points[first], endpoints.points[first + 1 :]
    rows, drawn = [], np.full((len(led_to), 2, DRAWN, 2), np.nan, np.float32)
    for row, point in enumerate(led_to):
        start, real = before.x[:MOST], point.x[:MOST]
        some = config.model_copy(update={"samples": len(start)})
        led = Sampler(trained, some, endpoints.end.label, device, start).between(before.t, point.t)
        moved = {
            "w1": wasserstein(led, real),
            "w1_still": wasserstein(start, real),
            "w2": wasserstein(led, real, power=2),
            "mmd": mmd(led, real),
        }
        rows.append({"time": point.time, "t": point.t, "left_out": point.left_out, **moved})
        for side, shown in enumerate((real, led)):
            flat = principal(shown[:DRAWN]).float().numpy()
            drawn[row, side, : len(flat), : flat.shape[1]] = flat
        before = before if point.left_out else point
    return rows, drawn


def wasserstein(x: Float32[Tensor, "n *shape"], y: Float32[Tensor, "m *shape"], power: int = 1) -> float:
    """Compute the p-Wasserstein distance of two samples in the Euclidean norm, with POT's network simplex."""
    import ot  # slow to import

    cost = torch.cdist(x.flatten(1).double(), y.flatten(1).double()).pow(power).numpy()
    return float(ot.emd2([], [], cost, numItermax=10**7)) ** (1 / power)


def mmd(x: Float32[Tensor, "n *shape"], y: Float32[Tensor, "m *shape"]) -> float:
    """Compute the maximum mean discrepancy of two samples (Gretton et al. 2012).

    It is the root of the unbiased estimate of its square, or 0 where that is negative, with the mean of five Gaussian
    kernels, whose bandwidths are 1/4 to 4 times the median distance between the samples.
    """
    x, y = x.flatten(1).double(), y.flatten(1).double()
    across = torch.cdist(x, y)
    median = across.median()
    if not median > 0:
        return 0.0
    bandwidths = median * torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)

    def kernel(distance: Tensor) -> Tensor:
        return torch.stack([(-(distance**2) / (2 * h**2)).exp() for h in bandwidths]).mean(0)

    def within(z: Tensor) -> Tensor:
        return (kernel(torch.cdist(z, z)).sum() - len(z)) / (len(z) * max(1, len(z) - 1))

    square = within(x) + within(y) - 2 * kernel(across).mean()
    return float(square.clamp(min=0).sqrt())
