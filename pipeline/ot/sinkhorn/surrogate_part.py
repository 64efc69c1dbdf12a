"""The matrix of a surrogate (pipeline/ot/sinkhorn/surrogate.py) in parts, a thread each: kept entries, and the rest."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from flowpairs.pipeline.ot.tiles.ordered_sums import RowMatrix, add_by_index
from flowpairs.pipeline.ot.tiles.partition import UNIT

COLUMNS_AT_ONCE = 2**22  # columns of pieces that are added up at a time


class SurrogatePart:
    """The kept entries of some consecutive pieces of rows, as a sparse matrix by rows and by columns.

    By columns each piece is separate, since what a piece adds must not depend on the pieces next to it.

    Args:
        i: rows of the entries, in increasing order.
        j: columns of the entries.
        bounds: first rows of the pieces, and the end.
        bands: numbers of the pieces' bands, in increasing order.
        entries: positions of these entries among all.
        group_of_column: the group of each column [m].

    Attributes:
        bands: the bands of the pieces.
        profile: how a band's rest in a group falls on the group's columns [bands or 1, m]; one row serves all bands.
    """

    def __init__(
        self,
        i: Int[Tensor, " k"],
        j: Int[Tensor, " k"],
        bounds: list[int],
        bands: list[int],
        entries: slice,
        group_of_column: Int[Tensor, " m"],
    ) -> None:
        m = len(group_of_column)
        self.rows, self.entries, self.m, self.pieces = slice(bounds[0], bounds[-1]), entries, m, len(bounds) - 1
        rows = torch.arange(bounds[0], bounds[-1], dtype=i.dtype, device=i.device)
        self.pattern = torch.searchsorted(i, torch.cat([rows, rows.new_tensor([bounds[-1]])]), out_int32=True), j
        inner = i.new_tensor(bounds[1:-1])
        self.piece_of_row = torch.bucketize(rows, inner, right=True)
        self.bands = slice(bands[0], bands[-1] + 1)
        self.band_of_piece = torch.tensor(bands, device=i.device) - bands[0]
        few = self.pieces * m < 2**31
        key = torch.bucketize(i, inner, right=True, out_int32=few).mul_(m).add_(j)
        key, by_column = key.sort(stable=True)
        starts = torch.arange(self.pieces * m + 1, dtype=key.dtype, device=i.device)
        self.by_column = by_column.int()
        self.transposed_pattern = torch.searchsorted(key, starts, out_int32=True), i[self.by_column] - bounds[0]
        self.profile = torch.zeros(1, m, dtype=torch.float64, device=i.device)
        self.group_of_column = group_of_column

    def fill(self, mass: Float[Tensor, " entries"]) -> None:
        """Set the values of the kept entries."""
        count = self.rows.stop - self.rows.start
        values = mass[self.entries]
        self.kernel = RowMatrix(*self.pattern, values, (count, self.m))
        values = values[self.by_column]
        starts, rows = self.transposed_pattern
        self.transposed = []
        for some in self._some_pieces():
            cut = starts[some.start * self.m : some.stop * self.m + 1]
            low, high = cut[0].item(), cut[-1].item()
            shape = (len(some) * self.m, count)
            self.transposed.append((some, RowMatrix(cut - low, rows[low:high], values[low:high], shape)))

    def _some_pieces(self) -> list[range]:
        """Cut the pieces into runs whose columns are worth a call, and bound what a call keeps."""
        step = max(1, COLUMNS_AT_ONCE // self.m)
        return [range(low, min(low + step, self.pieces)) for low in range(0, self.pieces, step)]

    def times(self, v: Float[Tensor, " m"], r: Float[Tensor, "n g"]) -> Float[Tensor, " rows"]:
        """Compute the rows' sums under the columns' scaling v, of kept entries and rest."""
        return self.kernel @ v + self.outside(v, r)

    def outside(self, v: Float[Tensor, " m"], r: Float[Tensor, "n g"]) -> Float[Tensor, " rows"]:
        """Compute the rows' rest under the columns' scaling v."""
        sums = v.new_zeros(r.shape[1], len(self.profile))
        sums = add_by_index(sums, self.group_of_column, (self.profile * v).T).T
        sums = sums.expand(self.bands.stop - self.bands.start, -1)[self.band_of_piece]
        return (r[self.rows] * sums[self.piece_of_row]).sum(1)

    def spread(self, u: Float[Tensor, " n"], v: Float[Tensor, " m"], r: Float[Tensor, "n g"]) -> Int64[Tensor, " m"]:
        """Compute what the pieces add to the columns' masses under both scalings, in integers."""
        total = torch.zeros(self.m, dtype=torch.int64, device=v.device)
        for counted in self.spread_by_piece(u, v, r):
            total += counted.sum(0)
        return total

    def spread_by_piece(
        self, u: Float[Tensor, " n"], v: Float[Tensor, " m"], r: Float[Tensor, "n g"]
    ) -> Iterator[Int64[Tensor, "pieces m"]]:
        """Compute what each piece adds to the columns' masses, for a run of pieces at a time."""
        rest, scale = self.rest(u, r), v * UNIT
        for some, matrix in self.transposed:
            pieces = slice(some.start, some.stop)
            sums = (matrix @ u[self.rows]).view(len(some), self.m)
            yield sums.addcmul_(rest[pieces, self.group_of_column], self._profiles(pieces)).mul_(scale).long()

    def profile_of(self, piece: int) -> Float[Tensor, " m"]:
        """Return the profile of a piece's rest."""
        return self._profiles(slice(piece, piece + 1))[0]

    def _profiles(self, pieces: slice) -> Float[Tensor, "pieces m"]:
        """Return the profiles of some pieces' rests, or the one of all; copied only where pieces share them."""
        if len(self.profile) == 1:
            return self.profile
        return self.profile[pieces if len(self.profile) == self.pieces else self.band_of_piece[pieces]]

    def rest(self, u: Float[Tensor, " n"], r: Float[Tensor, "n g"]) -> Float[Tensor, "pieces g"]:
        """Compute the rest of each piece in each group under the rows' scaling u."""
        sums = torch.zeros(self.pieces, r.shape[1], dtype=u.dtype, device=u.device)
        return add_by_index(sums, self.piece_of_row, r[self.rows] * u[self.rows, None])
