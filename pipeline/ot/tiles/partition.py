"""One block over several processes: each takes the same steps, and passes over its own rows only.

The rows are cut into sections, which do not depend on the number of processes, and a process owns whole sections. What
sections add to a sum over all rows is converted to integers before it is added (vectors), or added in the sections'
order (numbers), so a result has the same bits for any number of processes. Only such sums are exchanged.

Members may differ in the last bits of what each computes for itself, on unlike processors or drivers. So whatever
decides how a solve goes on is equal by construction (sums of integers, and what comparisons and single operations make
of them), or the first member's (`of_first`).
"""

import math
from itertools import accumulate, pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.ot.tiles.tiling import TileRun, sections, tile_runs

UNIT = 2.0**62  # integer that stands for a mass of 1: all masses fit, and a mass of 1e-6 keeps 42 bits

PIECES, PIECE_ROWS = 64, 32  # number up to which runs are cut into pieces, also of bands; least rows of a piece


@runtime_checkable
class Team(Protocol):
    """Processes that solve one block together, including this one."""

    rank: int
    size: int

    def sum(self, values: Tensor) -> Tensor:
        """Replace `values` by its sum over the members, in place, and return it."""


class SingleProcess:
    """A team of one."""

    rank, size = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        """See `Team.sum`."""
        return values


SINGLE = SingleProcess()


def of_first(team: Team, values: Shaped[Tensor, "*k"]) -> Shaped[Tensor, "*k"]:
    """Return the values that the team's first member has, in place of this member's own."""
    if team.size == 1:
        return values
    return team.sum(torch.zeros_like(values) if team.rank else values.clone())


def bytes_of_first(team: Team, data: bytes, device: torch.device) -> bytes:
    """Return the bytes that the team's first member has, in place of this member's own; tensors go by `device`."""
    if team.size == 1:
        return data
    size = int(of_first(team, torch.tensor(len(data), device=device)))
    whole = torch.zeros(size, dtype=torch.uint8, device=device)
    if not team.rank:
        whole += torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
    return team.sum(whole).cpu().numpy().tobytes()


class RowPartition:
    """The rows of an n x m kernel that this member of `team` works on.

    Attributes:
        sections: sections of all rows, in order.
        mine: numbers of this member's sections.
        rows: rows that this member's sections span.
        banded: whether there are so many pieces that several make a band (see pipeline/ot/tiles/bands.py).
    """

    def __init__(self, n: int, m: int, device: torch.device, team: Team = SINGLE) -> None:
        self.n, self.m, self.device, self.team = n, m, device, team
        self.sections = sections(n, m, device)
        self.mine = range(self._first_section(team.rank), self._first_section(team.rank + 1))
        bounds = [section.start for section in self.sections] + [n]
        self.rows = slice(bounds[self.mine.start], bounds[self.mine.stop])
        self._runs_before = list(accumulate((len(tile_runs(own, m, device)) for own in self.sections), initial=0))
        self.runs = self._runs_before[-1]
        self.banded = self.runs > PIECES

    def _first_section(self, rank: int) -> int:
        """Return the number of a member's first section."""
        return len(self.sections) * rank // self.team.size

    def groups(self) -> list[TileRun]:
        """Cut this member's rows into runs of tiles."""
        return [group for k in self.mine for group in tile_runs(self.sections[k], self.m, self.device)]

    def pieces(self, run: TileRun) -> list[slice]:
        """Cut a run into the rows whose marginals a pass measures apart: itself, or a single tile in up to PIECES."""
        start, stop = run[0].start, run[-1].stop
        count = 1 if len(run) > 1 else max(1, min(PIECES // self.runs, (stop - start) // PIECE_ROWS))
        cuts = [start + (stop - start) * k // count for k in range(count + 1)]
        return [slice(low, high) for low, high in pairwise(cuts)]

    def all_pieces(self) -> list[slice]:
        """Return the pieces of this member's rows."""
        return [piece for run in self.groups() for piece in self.pieces(run)]

    def bands(self, pieces: int) -> list[int]:
        """Number the bands of this member's pieces, from 0; each of the pieces is one unless the block is `banded`."""
        if not self.banded:
            return list(range(pieces))
        first = self._runs_before[self.mine.start]
        return [self._band(first + k) - self._band(first) for k in range(pieces)]

    def shared_bands(self) -> list[int]:
        """List the bands in which several members have rows, numbered as by `bands`, so that others' are negative."""
        if not self.banded:
            return []
        starts = [self._runs_before[self._first_section(rank)] for rank in range(1, self.team.size)]
        shared = {self._band(run) for run in starts if self._band(run) == self._band(run - 1)}
        return [band - self._band(self._runs_before[self.mine.start]) for band in sorted(shared)]

    def _band(self, run: int) -> int:
        """Return the number of a run's band in a block that is `banded`."""
        return run * PIECES // self.runs

    def masses(self, parts: Int64[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Sum masses over the members, given this member's in fixed point (see `to_fixed_point`)."""
        return self.team.sum(parts).double() / UNIT

    def each(self, numbers: list[Tensor]) -> Float[Tensor, " sections"]:
        """Collect one number per section, given those of this member's sections."""
        out = torch.zeros(len(self.sections), dtype=torch.float64, device=self.device)
        if numbers:
            out[self.mine.start : self.mine.stop] = torch.stack(numbers).double()
        return self.team.sum(out)

    def total(self, values: Float[Tensor, " n"]) -> float:
        """Sum over all rows; `values` need to be right only for this member's rows."""
        return self.decided(self.each([values[self.sections[k]].sum() for k in self.mine]).sum().item())

    def decided(self, number: bool | float) -> float:
        """Return the number that the team's first member has, by which all members go on."""
        return of_first(self.team, torch.tensor(float(number), dtype=torch.float64, device=self.device)).item()

    def gather(self, values: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "n *rest"]:
        """Collect all rows of `values`, given this member's own."""
        if self.team.size == 1:
            return values
        whole = torch.zeros_like(values)
        whole[self.rows] = values[self.rows]
        return self.team.sum(whole)


def check_team(size: int, n: int, m: int, device: torch.device) -> None:
    """Refuse a team larger than a block of n x m keeps busy, by `InputError`."""
    most = len(sections(n, m, device))
    if size > most:
        raise InputError(f"cluster.actors_per_block={size}: a block of {n} source rows keeps {most} busy; lower it")


def power_of_two(x: Float[Tensor, "*k"]) -> Float64[Tensor, "*k"]:
    """Compute 2^x in float64 with bits that depend on x alone.

    torch.exp2 computes the tail of an array by other instructions than its body, so that an element's last bit depends
    on its position, which for a list of entries depends on the process's share.
    """
    return (x.double() * math.log(2)).exp_()


def to_fixed_point(masses: Float[Tensor, "*k"]) -> Int64[Tensor, "*k"]:
    """Convert masses of at most 1 to integers, whose sums are exact in any order."""
    return (masses.double() * UNIT).long()


def distance(masses: Float[Tensor, " k"], wanted: Float[Tensor, " k"]) -> float:
    """Sum |masses - wanted|, which is at most 2, as integers: the same bits in any order, so on any processor."""
    return as_distance(int(counted_distance(masses, wanted)))


def counted_distance(masses: Float[Tensor, " k"], wanted: Float[Tensor, " k"]) -> Int64[Tensor, ""]:
    """Compute the integer of which `as_distance` makes the distance, where the device need not be waited for."""
    return to_fixed_point((masses - wanted).abs() / 4).sum()


def as_distance(count: int) -> float:
    """Convert what `counted_distance` found."""
    return 4 * count / UNIT
