"""Barycentric projection: the mean of target values under P(. | i) for each source row, a tile of rows at a time."""

from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.partition import RowPartition
from flowpairs.pipeline.ot.tiles.tiling import TileRun, Workers


def of_logits(kernel: Logits, values: Float[Tensor, "m q"]) -> Float[Tensor, "n q"]:
    """Average `values` over the columns with weights 2^logits, normalised per row.

    Args:
        kernel: logits with gamma in place.
        values: one row per column of the kernel.
    """
    out = values.new_empty(kernel.n, values.shape[1])

    def work(run: TileRun) -> None:
        buffer = workers.room(0, run[0].stop - run[0].start, kernel.m, kernel.empty)
        for rows in run:
            logits = kernel.tile(rows, buffer)
            weights = logits.sub_(logits.amax(1, keepdim=True)).exp2_()
            out[rows] = (weights @ values.to(weights.dtype) / weights.sum(1, keepdim=True)).to(values.dtype)

    with Workers(kernel.device) as workers:
        list(workers.map(work, RowPartition(kernel.n, kernel.m, kernel.device).groups()))
    return out
