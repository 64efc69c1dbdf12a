"""The scores of points with this process's targets by the fused kernels: two sweeps a batch, and no score in memory.

Each section of the targets is a launch of its own, so that what it says does not depend on who owns which others.
"""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from flowpairs.pipeline.ot.backends.fused.fused_logits import WORD, FusedLogits, ordered_sum, tile_shape
from flowpairs.pipeline.ot.backends.fused.halves import Halves, halved
from flowpairs.pipeline.ot.semidiscrete.entry_buffer import Found
from flowpairs.pipeline.ot.semidiscrete.point_scores import Given
from flowpairs.pipeline.ot.semidiscrete.targets import Targets
from flowpairs.pipeline.ot.tiles.kernel import LOG2E
from flowpairs.pipeline.ot.tiles.partition import UNIT, to_fixed_point
from flowpairs.pipeline.ot.tiles.tiling import Workers

BATCH = 2**16  # points between two exchanges: a few kilobytes each, and work enough for a GPU with few targets
SLACK = 2.0**-20  # of the terms of a logit: by what two orders of adding them may differ, and more


class FusedScores:
    """`Scores` of which the members' log-sums alone are kept between the two looks.

    Args:
        targets: data of the problem; the halves of the points are made once, and kept with them.
        g: potential, in units of the cost [N].
        eps: absolute epsilon.
        small: least probability of an entry.
        points: number of points of the pass.
    """

    def __init__(self, targets: Targets, g: Float[Tensor, " N"], eps: float, small: float, points: int) -> None:
        shape = tile_shape(targets.device)
        assert shape is not None
        self.batch, self.sections, self._shape = min(points, BATCH), list(targets.share.mine), shape
        self._step, self._share, self._points = shape.step(targets.dim), 1 / points, points
        self._spans = [targets.share.sections[k] for k in self.sections]
        self._small, self._scale = math.log2(small), LOG2E / eps
        self._gamma = g * self._scale + targets.b.log2()
        # A constant that is common to all scores has no effect but on the digits that float32 has left for the rest.
        self._gamma = self._gamma - targets.share.total(targets.b * self._gamma)
        self._halves = _halves(targets, self._step)
        self._masses, self._squares, self._hits = (torch.zeros_like(g, dtype=torch.int64) for _ in range(3))

    def first_look(
        self, points: Float[Tensor, "r d"], prepare: Callable[[], None], workers: Workers
    ) -> tuple[Float64[Tensor, "parts r"], Float64[Tensor, "parts r"]]:
        """See `Scores.first_look`."""
        left = halved(points, self._step, self._scale)
        self._logits = [
            FusedLogits(left, right, self._gamma[span], self._shape, WORD * self._shape.columns)
            for right, span in zip(self._halves, self._spans, strict=True)
        ]
        every, tops, sums = slice(0, len(points)), list[Tensor](), list[Tensor]()
        for logits in self._logits:
            top, rest = (part.double() for part in logits.log_sums(every))
            tops.append(top.amax(1))
            sums.append(ordered_sum(rest * (top - tops[-1][:, None]).exp2()))
        prepare()
        self._tops = torch.stack(tops)
        return self._tops, torch.stack(sums)

    def second_look(
        self, phi: Float64[Tensor, " r"], won: Bool[Tensor, "parts r"], start: int, workers: Workers
    ) -> Iterator[Found]:
        """See `Scores.second_look`."""
        ref, every = phi.float(), slice(0, len(phi))
        off = ref.double() - phi  # what float32 takes from a reference is given back
        weight = (self._share * off.exp2()).float()
        least = self._small - off  # of an entry's logit less its reference
        for logits, span, tops, own in zip(self._logits, self._spans, self._tops, won, strict=True):
            # A point's largest score is listed where it is, however small its probability.
            highest = tops - ref - SLACK * (tops.abs() + phi.abs() + 1)
            bound = torch.where(own, least.minimum(highest), least).float()
            seen = logits.sweep(every, ref, weight, bound)
            row, column, logit = logits.listed(ref, 0, seen.tiles, bound)
            self._masses[span] += seen.columns
            winners = _winners(row, column, logit, own)
            self._hits[span].index_add_(0, winners, torch.ones_like(winners))
            entry = logit >= least[row]
            row, column = row[entry], column[entry]
            shares = (logit[entry].double() + off[row]).exp2()
            self._squares[span].index_add_(0, column, to_fixed_point(shares.square() / self._points))
            yield column + span.start, row + start, shares.float()

    def given(self) -> Given:
        """See `Scores.given`."""
        masses, squares = (counts.double() / UNIT * self._points for counts in (self._masses, self._squares))
        return Given(masses, squares, self._hits)


def _halves(targets: Targets, step: int) -> list[Halves]:
    """Split this process's targets, a section at a time, once."""
    if targets.kept is None or targets.kept[0] != step:
        sections = [targets.share.sections[k] for k in targets.share.mine]
        targets.kept = step, [halved(targets.rows(section), step) for section in sections]
    return targets.kept[1]


def _winners(
    row: Int64[Tensor, " e"], column: Int64[Tensor, " e"], logit: Float[Tensor, " e"], own: Bool[Tensor, " r"]
) -> Int64[Tensor, " w"]:
    """Find the first column of the largest logit of each row of `own`; entries are in the order of rows and columns."""
    largest = torch.full(own.shape, -math.inf, dtype=logit.dtype, device=logit.device)
    largest.scatter_reduce_(0, row, logit, "amax")
    best = (own[row] & (logit == largest[row])).nonzero()[:, 0]
    first = torch.ones_like(best, dtype=torch.bool)
    first[1:] = row[best[1:]] != row[best[:-1]]
    return column[best[first]]
