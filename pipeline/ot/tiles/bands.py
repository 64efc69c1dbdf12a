"""Masses of columns by bands of rows: what a surrogate's rest is shaped by, kept once for several pieces of rows.

A piece is what one process adds up in floating point. A block that many processes may share has more pieces than there
is memory for a number per piece and column, so consecutive pieces are one band, at most PIECES of which a block has. A
band may lie in several processes; its masses are integers, so these add up their parts of it in any order.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from flowpairs.pipeline.ot.tiles.ordered_sums import add_by_index
from flowpairs.pipeline.ot.tiles.partition import UNIT, RowPartition


class BandMasses:
    """Adds up the masses that the pieces of this process's rows give to the columns, in fixed point.

    Args:
        share: partition of the rows.
    """

    def __init__(self, share: RowPartition) -> None:
        self.share = share
        self._bands, self._found = iter(share.bands(len(share.all_pieces()))), list[Tensor]()

    def add(self, counted: Int64[Tensor, "pieces m"]) -> None:
        """Take the masses of the next pieces; they are kept, and may be changed."""
        if not self.share.banded:
            self._found.append(counted)
            return
        for own in counted:
            band = next(self._bands)
            if band == len(self._found):
                self._found.append(own[None].clone())
            else:
                self._found[band] += own

    def masses(self) -> Float64[Tensor, "bands m"]:
        """Return the masses of all bands in which this process has rows, and forget them, as they are large."""
        for band in self.share.shared_bands():
            here = 0 <= band < len(self._found)
            self.share.team.sum(self._found[band] if here else torch.zeros_like(self._found[0]))
        whole = torch.cat(self._found)
        self._found.clear()
        return whole.double().div_(UNIT)


def by_run(bands: Float[Tensor, "bands m"], share: RowPartition) -> Float[Tensor, "r m"]:
    """Sum what the pieces of each run of rows have, where each is a band; where runs share bands, these stay."""
    if share.banded:
        return bands
    counts = torch.tensor([len(share.pieces(run)) for run in share.groups()], device=bands.device)
    run_of_piece = torch.arange(len(counts), device=bands.device).repeat_interleave(counts)
    return add_by_index(bands.new_zeros(len(counts), bands.shape[1]), run_of_piece, bands)
