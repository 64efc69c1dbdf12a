"""Categorical draws by the inverse distribution function, one per row, from float64 cumulative sums.

Rows are summed in column chunks of a fixed size, so a draw does not depend on tiles or threads. A row is normalised by
its own sum, and an entry of zero mass is never drawn.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.tiles.logits import Logits
from flowpairs.pipeline.ot.tiles.ordered_sums import running_sums
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team
from flowpairs.pipeline.ot.tiles.tiling import TileRun, Workers

CHUNK = 256  # columns


def categorical(kernel: Logits, u: Float[Tensor, " n"], team: Team = SINGLE) -> Int[Tensor, " n"]:
    """Draw one column per row with probability 2^logits over the row's sum.

    Args:
        kernel: logits with gamma in place.
        u: uniforms in [0, 1), float64 [n].
        team: processes that share the rows; all get all draws.
    """
    device = kernel.device
    share = RowPartition(kernel.n, kernel.m, device, team)
    width = -(-kernel.m // CHUNK) * CHUNK
    drawn = torch.zeros(kernel.n, dtype=torch.int64, device=device)

    def work(group: TileRun) -> None:
        size = group[0].stop - group[0].start
        logits_buffer = workers.room(0, size, kernel.m, kernel.empty)
        padded = workers.room(1, size, width, kernel.empty)
        padded[:, kernel.m :] = 0
        for rows in group:
            logits = kernel.tile(rows, logits_buffer)
            logits.sub_(logits.amax(1, keepdim=True))
            torch.exp2(logits, out=padded[: len(logits), : kernel.m])
            drawn[rows] = _invert(padded[: len(logits)], u[rows])

    with Workers(device) as workers:
        list(workers.map(work, share.groups()))
    return share.gather(drawn)


def _invert(weights: Float[Tensor, "r width"], u: Float[Tensor, " r"]) -> Int[Tensor, " r"]:
    """Find the chunk in which u falls, then the column in the chunk."""
    chunks = weights.unflatten(1, (-1, CHUNK))
    chunk, aim = chunk_of(chunks.sum(2, dtype=torch.float64), u)
    inside = chunks[torch.arange(len(u), device=u.device), chunk[:, 0]].double().cumsum(1)
    return (chunk * CHUNK + first_beyond(inside, aim))[:, 0]


def chunk_of(
    masses: Float[Tensor, "r chunks"], u: Float[Tensor, " r"]
) -> tuple[Int[Tensor, "r 1"], Float[Tensor, "r 1"]]:
    """Find the chunk in which u of the row's mass falls, and how much mass precedes that point in the chunk."""
    cumulative = masses.cumsum(1)
    aim = u[:, None] * cumulative[:, -1:]
    chunk = first_beyond(cumulative, aim)
    before = torch.where(chunk > 0, cumulative.gather(1, (chunk - 1).clamp(min=0)), 0.0)
    return chunk, aim - before


def first_beyond(cumulative: Float[Tensor, "r c"], aim: Float[Tensor, "r k"]) -> Int[Tensor, "r k"]:
    """Find the first columns whose cumulative mass exceeds `aim`, which rounding may put on the total or below 0."""
    total = cumulative[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(cumulative, torch.minimum(aim.clamp(min=0), below_total), right=True)


def from_rows(
    starts: Int[Tensor, " rows"], columns: Int[Tensor, " k"], mass: Float[Tensor, " k"], u: Float[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Draw one column per row of a sparse matrix stored by rows; a single row serves every u.

    Args:
        starts: start of each row's entries [r + 1], r = n or 1.
        columns: columns of the entries [k].
        mass: masses of the entries [k], positive somewhere in every row.
        u: uniforms in [0, 1), float64 [n].
    """
    cumulative = running_sums(mass)
    bounds = torch.cat([cumulative.new_zeros(1), cumulative])[starts]
    low, high = bounds[:-1], bounds[1:]
    aim = torch.minimum(low + u * (high - low), torch.nextafter(high, low)).maximum(low)
    return columns[torch.searchsorted(cumulative, aim, right=True)]
