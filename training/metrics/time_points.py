"""A flow over time against the data at each time point, those left out of training among them.

As in arXiv 2302.00482, section 5.3: the data of the last point before that was trained on are led on to the point, and
held to its data by the 1-Wasserstein distance.
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

MOST, DRAWN = 2_000, 256  # data of a point that are led on and compared, and those that the report draws


def measure_time_points(
    trained: Trained, config: EvaluateConfig, endpoints: Endpoints, device: torch.device
) -> tuple[list[dict[str, Any]], Float32[np.ndarray, "points 2 k 2"]]:
    """W1 of every point after the first, for evaluation.json, and what there is to draw.

    Returns: a row a point, with the distance of the flow's points, `w1`, and that of the data before as they were,
    `w1_still`; and of each the data and the flow's points on the two principal directions of all data, NaN where there
    are fewer than DRAWN.
    """
    principal = Principal.fit(torch.cat([point.x for point in endpoints.points]), 2)
    first = next(number for number, point in enumerate(endpoints.points) if not point.left_out)
    before, led_to = endpoints.points[first], endpoints.points[first + 1 :]
    rows, drawn = [], np.full((len(led_to), 2, DRAWN, 2), np.nan, np.float32)
    for row, point in enumerate(led_to):
        start, real = before.x[:MOST], point.x[:MOST]
        some = config.model_copy(update={"samples": len(start)})
        led = Sampler(trained, some, endpoints.end.label, device, start).between(before.t, point.t)
        moved = {"w1": wasserstein(led, real), "w1_still": wasserstein(start, real)}
        rows.append({"time": point.time, "t": point.t, "left_out": point.left_out, **moved})
        for side, shown in enumerate((real, led)):
            flat = principal(shown[:DRAWN]).float().numpy()
            drawn[row, side, : len(flat), : flat.shape[1]] = flat
        before = before if point.left_out else point
    return rows, drawn


def wasserstein(x: Float32[Tensor, "n *shape"], y: Float32[Tensor, "m *shape"]) -> float:
    """The 1-Wasserstein distance of two samples in the Euclidean norm, by POT's network simplex."""
    import ot  # slow to import

    cost = torch.cdist(x.flatten(1).double(), y.flatten(1).double()).numpy()
    return float(ot.emd2([], [], cost, numItermax=10**7))
