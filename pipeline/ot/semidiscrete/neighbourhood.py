"""Shares at a small eps, or of the cells, as means over a neighbourhood of each point of a pass.

A standard Gaussian x is also sqrt(1 - s^2) z + s w with independent standard Gaussians z and w. A pass compares z with
all data; the w only have to be compared with the data that z keeps, since no others are near. So the mean over many w
adds little to the cost of a pass. It is as unbiased as the share of a single point, and its square is on average as
small as the chance that two points of a neighbourhood choose the same datum. Blocks of points share their w, of which
both signs are used; one point in CHECKED is compared with all data, to see how often the kept ones do not suffice.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor

from flowpairs.pipeline.ot.semidiscrete.targets import PointSource, Targets
from flowpairs.pipeline.ot.tiles.partition import UNIT, power_of_two, to_fixed_point
from flowpairs.pipeline.ot.tiles.tiling import Workers

BLOCK, PAIRS = 256, 16  # points that share their w, and the w of a block, each with both signs
CHECKED = 64
FAR = 2**31  # number of the first w among the source's points
ROUNDED = 1e-3  # bits within which two float32 logits are the same

Seen = tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]  # columns, rows and shares of a tile's entries


class Neighbourhood:
    """The neighbourhoods of a pass's points.

    Args:
        targets: data of the problem.
        source: source of the problem.
        eps: eps of the pass.
        wanted: the smaller eps of the shares; 0 for the cells.
        spread: s.
        points: number of points of the pass.
        workers: the threads.
    """

    def __init__(
        self,
        targets: Targets,
        source: PointSource,
        eps: float,
        wanted: float,
        spread: float,
        points: int,
        workers: Workers,
    ) -> None:
        self.targets, self.source, self.spread, self.points, self.workers = targets, source, spread, points, workers
        self.sharpen = eps / wanted if wanted > 0 else math.inf
        self.fixed = torch.zeros(2, targets.count, dtype=torch.int64, device=targets.own.device)
        self.lost = self.checked = 0

    def centre(self, batch: Float[Tensor, "r d"]) -> None:
        """Move points to the centres of their neighbourhoods, in place."""
        batch[:, : self.source.dim] *= math.sqrt(1 - self.spread**2)

    def look(
        self,
        rights: Sequence[Float[Tensor, "_ d1"]],
        columns: Sequence[slice],
        seen: Sequence[Seen],
        first: int,
        start: int,
        batch: Float[Tensor, "r d"],
        phi: Float64[Tensor, " r"],
    ) -> None:
        """Add what the neighbourhoods of a batch's points give to this process's targets.

        Args:
            rights: each tile's factor of the logits.
            columns: each tile's targets.
            seen: each tile's entries, in the order of their rows.
            first: number of the pass's first point.
            start: position in the pass of the batch's first point.
            batch: the centres.
            phi: their log-sums.
        """
        device, rows, team = batch.device, len(batch), self.targets.share.team
        blocks = range(start // BLOCK, -(-(start + rows) // BLOCK))
        w = torch.zeros(len(blocks), PAIRS, batch.shape[1])
        for own, block in zip(w, blocks, strict=True):
            gaussian = self.source.points(FAR + first + BLOCK * block, PAIRS)[:, : self.source.dim]
            own[:, : self.source.dim] = gaussian * self.spread
        w = w.to(device)
        block_of_row = torch.arange(start, start + rows, device=device) // BLOCK - blocks.start
        some = torch.arange(0, rows, CHECKED, device=device)
        tested = torch.cat([batch[some] + w[block_of_row[some], 0], batch.new_ones(len(some), 1)], 1)

        def first_look(k: int) -> tuple[Tensor, Tensor, Tensor]:
            column, row, share = seen[k]
            shift = (rights[k][:, :-1] @ w.flatten(0, 1).T).unflatten(1, (len(blocks), PAIRS))
            shift, logit = shift[column, block_of_row[row]], share.log2()[:, None]
            local = torch.cat([logit + shift, logit - shift], 1)
            return local, _by_row(row, local, rows, "amax"), (tested @ rights[k].T).amax(1)

        locals_, tops, most = zip(*self.workers.map(first_look, range(len(seen))), strict=True)
        top, checks = torch.stack(tops).amax(0), torch.stack(most).amax(0) - phi[some].float()
        both = torch.cat([top.flatten(), checks])
        if team.size > 1:
            each = both.new_zeros(team.size, len(both))
            each[team.rank] = both
            both = team.sum(each).amax(0)
        top, checks = both[: top.numel()].view_as(top), both[top.numel() :]
        self.lost += int((checks > top[some, 0] + ROUNDED).sum())
        self.checked += len(some)

        def weights(k: int) -> Float[Tensor, "k w"]:
            below = locals_[k] - top[seen[k][1]]
            if self.sharpen == math.inf:
                return (below == 0).to(below.dtype)
            return power_of_two(below * self.sharpen)

        total = None
        if self.sharpen < math.inf:
            # In fixed point the sums are exact, hence the same for any number of members and threads.

            def second_look(k: int) -> Tensor:
                return _by_row(seen[k][1], to_fixed_point(weights(k) / self.targets.count), rows, "sum")

            sums = torch.stack(list(self.workers.map(second_look, range(len(seen))))).sum(0)
            total = team.sum(sums).double() / UNIT * self.targets.count

        def last_look(k: int) -> None:
            column, row, _ = seen[k]
            found = weights(k)
            share = (found if total is None else found / total[row]).double().mean(1) / self.points
            own = self.fixed[:, columns[k]]
            own[0].index_add_(0, column, to_fixed_point(share))
            own[1].index_add_(0, column, to_fixed_point(share.square() * self.points))

        list(self.workers.map(last_look, range(len(seen))))

    def shares(self) -> tuple[Float64[Tensor, " N"], Float64[Tensor, " N"], float]:
        """Compute the targets' mean shares, the sums of their squares, and the share of points that were lost."""
        masses, squares = self.fixed.double() / UNIT
        return masses, squares * self.points, self.lost / max(1, self.checked)


def _by_row(row: Int[Tensor, " k"], values: Shaped[Tensor, "k w"], rows: int, how: str) -> Shaped[Tensor, "rows w"]:
    """Reduce values by their rows, which are in order, to a sum or a maximum; on a CPU numpy is much faster."""
    out = values.new_full((rows, values.shape[1]), -math.inf if how == "amax" else 0)
    if not len(row):
        return out
    if values.device.type != "cpu":
        if how == "sum":
            return out.index_add_(0, row, values)
        return out.scatter_reduce_(0, row[:, None].expand_as(values), values, "amax")
    starts = np.flatnonzero(np.diff(row.numpy(), prepend=-1))
    reduce = np.maximum if how == "amax" else np.add
    out[row[torch.from_numpy(starts)]] = torch.from_numpy(reduce.reduceat(values.numpy(), starts, axis=0))
    return out
