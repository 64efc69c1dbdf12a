"""The matrix of a surrogate (pipeline/ot/sinkhorn/surrogate.py) in parts, a thread each: kept entries, and the rest."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from flowpairs.pipeline.ot.sinkhorn.sweep import Entries
from flowpairs.pipeline.ot.tiles.ordered_sums import RowMatrix, TurnedMatrix, add_by_index, scipys
from flowpairs.pipeline.ot.tiles.partition import UNIT, power_of_two

TINY = 1e-300
AT_ONCE = 2**20  # entries whose logits are computed at a time
COLUMNS_AT_ONCE = {"cpu": 2**17, "cuda": 2**22}  # columns of pieces that are added up at a time
ENTRIES_AT_ONCE = 2**23  # entries that are added up at a time in integers


class Scalings(NamedTuple):
    """A solution of the surrogate at some eps, with what it was found on."""

    x: Float[Tensor, " m"]  # log2 of the columns' scaling
    scaling: Float[Tensor, " n"]  # of the rows
    error: float  # L1 error of the target marginal, on the surrogate
    sharpen: float  # by what eps was divided
    top: Float[Tensor, " n"]  # largest logit of each row
    r: Float[Tensor, "n g"]  # rest of each row in each group of columns
    source: Float[Tensor, " n"]  # masses of the rows

    @property
    def rows(self) -> Float[Tensor, " n"]:
        """log2 of the factors of the entries' rows, which give each row its mass."""
        return self.scaling.clamp(min=TINY).log2() - self.top


class Expected(NamedTuple):
    """The properties that the surrogate's solution at some eps is expected to have."""

    gamma: Float[Tensor, " m"]
    rows: Float[Tensor, " n"]  # log2 of the factors of the entries' rows, which give each row its mass
    error: float  # L1 error of the target marginal, on the surrogate
    rest: float  # share of P that is not kept entry by entry
    entropy: float  # H(P) in nats, where the sweep found its entropies
    source: Float[Tensor, " n"]  # masses of the rows


class KeptEntries:
    """The entries that a surrogate keeps one by one.

    There are many: what needs several numbers of each is computed for a run of them at a time.

    Args:
        entries: the entries, with their logits at the eps that the surrogate was made at.
        log_b: log2 of the columns' wanted masses [m].

    Attributes:
        mass: their masses at the eps of the last `fill`, in the same memory each time.
    """

    def __init__(self, entries: Entries, log_b: Float[Tensor, " m"]) -> None:
        self.i, self.j, self.logits, self.log_b = entries.i, entries.j, entries.logits, log_b
        self.mass = torch.empty_like(self.logits, dtype=torch.float64)

    def at(self, sharpen: float, some: slice) -> Float64[Tensor, " some"]:
        """Compute the logits of some entries at 1 / sharpen times the eps that the surrogate was made at."""
        logits = self.logits[some].double()
        if sharpen == 1:
            return logits
        log_b = self.log_b[self.j[some]]
        return logits.sub(log_b).mul_(sharpen).add_(log_b)

    def lowest(self, some: slice) -> Float[Tensor, ""]:
        """Find the smallest logit of some entries; 0 where there is none."""
        return torch.cat([self.logits[some], self.logits.new_zeros(1)]).min()

    def tops(self, sharpen: float, rows: int) -> Float64[Tensor, " rows"]:
        """Find the largest logit of each row at 1 / sharpen times that eps; 0 for rows without entries."""
        highest = torch.full((rows,), -math.inf, dtype=torch.float64, device=self.i.device)
        for some in self._runs():
            highest.scatter_reduce_(0, self.i[some].long(), self.at(sharpen, some), "amax")
        return highest.masked_fill_(highest == -math.inf, 0.0)

    def fill(self, sharpen: float, top: Float64[Tensor, " n"]) -> None:
        """Compute the masses at 1 / sharpen times that eps, from logits less `top` of their row."""
        for some in self._runs():
            self.mass[some] = power_of_two(self.at(sharpen, some) - top[self.i[some]])

    def plan(self, found: Scalings, some: slice) -> Float64[Tensor, " some"]:
        """Compute the masses of some entries in the plan of a solution."""
        i, j = self.i[some], self.j[some]
        return power_of_two(found.scaling.log2()[i] + found.x[j] + (self.at(found.sharpen, some) - found.top[i]))

    def _runs(self) -> list[slice]:
        return [slice(low, low + AT_ONCE) for low in range(0, len(self.i), AT_ONCE)]


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
        starts = torch.searchsorted(i, torch.cat([rows, rows.new_tensor([bounds[-1]])]), out_int32=True)
        self.pattern = starts, j
        self.bounds, self.cuts = bounds, starts[[bound - bounds[0] for bound in bounds]].tolist()
        self.bands = slice(bands[0], bands[-1] + 1)
        self.band_of_piece = torch.tensor(bands, device=i.device) - bands[0]
        self.piece_of_row = torch.bucketize(rows, i.new_tensor(bounds[1:-1]), right=True)
        self.profile = torch.zeros(1, m, dtype=torch.float64, device=i.device)
        self.group_of_column = group_of_column
        self._index_columns(i)

    def _index_columns(self, i: Int[Tensor, " k"]) -> None:
        """Prepare for sums over columns, given the rows of the entries."""
        self.turned = [(some, self._turned(i, some)) for some in self._some_pieces()]

    def _some_pieces(self) -> list[range]:
        """Cut the pieces into runs whose columns are worth a call, and bound what a call keeps."""
        step = max(1, COLUMNS_AT_ONCE[self.band_of_piece.device.type] // self.m)
        return [range(low, min(low + step, self.pieces)) for low in range(0, self.pieces, step)]

    def _turned(self, i: Int[Tensor, " k"], some: range) -> TurnedMatrix:
        """Turn some pieces, side by side: the columns of each follow those of the one before."""
        starts, columns = self.pattern
        rows, entries = self._rows(some), self._entries(some)
        starts, columns = starts[rows.start - self.rows.start : rows.stop - self.rows.start + 1], columns[entries]
        if len(some) > 1:
            inner = i.new_tensor(self.bounds[some.start + 1 : some.stop])
            columns = torch.bucketize(i[entries], inner, right=True, out_int32=True).mul_(self.m).add_(columns)
        return TurnedMatrix(starts - entries.start, columns, (rows.stop - rows.start, len(some) * self.m))

    def _rows(self, some: range) -> slice:
        """Return the rows of some consecutive pieces."""
        return slice(self.bounds[some.start], self.bounds[some.stop])

    def _entries(self, some: range) -> slice:
        """Return the positions, among this part's entries, of those of some consecutive pieces."""
        return slice(self.cuts[some.start], self.cuts[some.stop])

    def fill(self, mass: Float[Tensor, " entries"]) -> None:
        """Set the values of the kept entries, which must stay as they are until the next call."""
        values = mass[self.entries]
        self.kernel = RowMatrix(*self.pattern, values, (self.rows.stop - self.rows.start, self.m))
        for some, matrix in self.turned:
            matrix.fill(values[self._entries(some)])

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
        for some, matrix in self.turned:
            pieces = slice(some.start, some.stop)
            sums = (matrix @ u[self._rows(some)]).view(len(some), self.m)
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


class IntegerPart(SurrogatePart):
    """A part whose entries are added to their columns one by one, in integers: in any order, as a GPU's threads come.

    It needs no order by columns, which would take as much memory again as the entries.
    """

    def _index_columns(self, i: Int[Tensor, " k"]) -> None:
        """Keep the rows, which say of what each entry is a part."""
        self.row_of_entry = i

    def fill(self, mass: Float[Tensor, " entries"]) -> None:
        """See `SurrogatePart.fill`."""
        self.values = mass[self.entries]
        self.kernel = RowMatrix(*self.pattern, self.values, (self.rows.stop - self.rows.start, self.m))

    def spread(self, u: Float[Tensor, " n"], v: Float[Tensor, " m"], r: Float[Tensor, "n g"]) -> Int64[Tensor, " m"]:
        """See `SurrogatePart.spread`; entries of all pieces go together."""
        rest, scale = self.rest(u, r), v * UNIT
        total = self._count(slice(0, len(self.row_of_entry)), u, scale)
        for some in self._some_pieces():
            pieces = slice(some.start, some.stop)
            total += (rest[pieces, self.group_of_column] * self._profiles(pieces)).mul_(scale).long().sum(0)
        return total

    def spread_by_piece(
        self, u: Float[Tensor, " n"], v: Float[Tensor, " m"], r: Float[Tensor, "n g"]
    ) -> Iterator[Int64[Tensor, "pieces m"]]:
        """See `SurrogatePart.spread_by_piece`; a piece at a time."""
        rest, scale = self.rest(u, r), v * UNIT
        for piece in range(self.pieces):
            counted = self._count(self._entries(range(piece, piece + 1)), u, scale)
            counted += (rest[piece, self.group_of_column] * self.profile_of(piece)).mul_(scale).long()
            yield counted[None]

    def _count(self, entries: slice, u: Float[Tensor, " n"], scale: Float[Tensor, " m"]) -> Int64[Tensor, " m"]:
        """Add up some entries in their columns."""
        total, (_, j) = torch.zeros(self.m, dtype=torch.int64, device=u.device), self.pattern
        for low in range(entries.start, entries.stop, ENTRIES_AT_ONCE):
            some = slice(low, min(low + ENTRIES_AT_ONCE, entries.stop))
            terms = (self.values[some] * u[self.row_of_entry[some]]).mul_(scale[j[some]])
            total.index_add_(0, j[some], terms.long())
        return total


def part_kind(device: torch.device) -> type[SurrogatePart]:
    """Return the parts of a device: on CPUs threads add floating-point numbers of a part each, in their order."""
    return SurrogatePart if device.type == "cpu" and scipys() is not None else IntegerPart
