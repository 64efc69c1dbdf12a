"""A sparse surrogate of the kernel near one sweep, on which Sinkhorn iterations cost next to nothing.

The large entries of the plan are kept one by one. All others are the rest: rows and columns are in an order in which
neighbours are near in space, and each block of a piece of rows and a group of columns has a rest of rank one, r c^T,
with the sums that the sweep measured over its rows and columns. So the surrogate has exactly the marginals that the
sweep measured, and keeps how mass is exchanged between regions; because the large entries are kept with their logits,
it can be solved at a smaller eps than it was made at. What it misses, the next sweep measures. Columns that the sweep
left without any mass are added with their exact entries (pipeline/ot/sinkhorn/starved.py).

Each process keeps the entries of its own rows; an iteration sums one number per column over the processes.
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice, pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowpairs.pipeline.ot.sinkhorn.anderson import Anderson
from flowpairs.pipeline.ot.sinkhorn.starved import Fed
from flowpairs.pipeline.ot.sinkhorn.surrogate_part import (
    TINY,
    Expected,
    KeptEntries,
    Scalings,
    SurrogatePart,
    part_kind,
)
from flowpairs.pipeline.ot.sinkhorn.sweep import Entries, Sweep
from flowpairs.pipeline.ot.tiles.bands import BandMasses, by_run
from flowpairs.pipeline.ot.tiles.ordered_sums import add_by_index
from flowpairs.pipeline.ot.tiles.partition import (
    UNIT,
    RowPartition,
    as_distance,
    counted_distance,
    distance,
    power_of_two,
    to_fixed_point,
)
from flowpairs.pipeline.ot.tiles.tiling import Workers, column_groups, group_of_columns

MEMORY = 8
ITERATIONS = 200
EVERY = {"cpu": 1, "cuda": 8}  # iterations from one look at their errors to the next, for which a GPU is waited for
BOUND = 900.0  # largest |log2 v|: float64 holds v and what it multiplies
SOLVED = 0.1  # L1 error of a solution from which another one may start
MEAN = 0.75  # where an entry of the rest lies between the least kept one and the mean of its block, in log
SPREAD = 4.0  # log2 of the largest growth of the rest with eps
LEAST = 1e-30  # smallest share of the rest per column, so that every column can be reached
NEGLIGIBLE = 0.02  # share of the plan below which the rest is not divided into blocks
LACKING = 0.5  # share of a column's mass below which its kept entries do not stand for it
ROUNDED = 1e-6  # share of a mass that is rounding of float32 and must not be taken for a rest
FAILED = 1e-2  # L1 error above which it is solved again by way of larger eps, BLURS times the sharpness
BLURS = 1 / 64, 1 / 16, 1 / 4
SOLVED_WELL = 2e-4  # L1 error of Sinkhorn iterations from which Newton's method need not go on
NEWTON, GRADIENTS, HALVINGS = 20, 60, 8
LEAP = 40.0  # largest change of log2 v in a step
CLOSER = 0.1  # share of the residual at which conjugate gradients end
BUSY = 2**17  # number of entries that is worth a thread's start


class Surrogate:
    """The surrogate of the plan with marginals a, b that `sweep` found on `share`.

    Args:
        sweep: the pass that it represents.
        a: source marginal to be reached.
        b: target marginal to be reached.
        log_b: log2 b.
        share: partition of the rows among processes.
        workers: the threads.
        measured: masses of the rows in the plan whose marginal the pass measured, where they were not `a`.
        fed: columns whose potential was raised since, with their entries.
    """

    rigid = True  # whether the marginals to be reached are fixed
    damping = 1.0  # share of a Sinkhorn step that is taken

    def __init__(
        self,
        sweep: Sweep,
        a: Float[Tensor, " n"],
        b: Float[Tensor, " m"],
        log_b: Float[Tensor, " m"],
        share: RowPartition,
        workers: Workers,
        measured: Float[Tensor, " n"] | None = None,
        fed: Fed | None = None,
    ) -> None:
        assert sweep.entries is not None
        measured = a if measured is None else measured
        self.gamma, self.a, self.b, self.log_b, self.share, self.workers = sweep.gamma, a, b, log_b, share, workers
        self.kept = KeptEntries(sweep.entries, log_b)
        self.start = torch.zeros_like(self.b)  # log2 of the columns' scaling from which the next solve starts
        self.kept.fill(1.0, torch.zeros_like(a))
        mass = self.kept.mass
        fine = sweep.groups is not None and self._rest_matters(measured, mass, sweep.columns)
        groups = sweep.groups.double() if fine and sweep.groups is not None else torch.ones_like(a)[:, None]
        self.group_of_column = group_of_columns(column_groups(len(b)) if fine else [slice(0, len(b))], b.device)
        self.width = self.group_of_column.bincount().double()
        self.pieces = share.all_pieces() if fine else [slice(run[0].start, run[-1].stop) for run in share.groups()]
        self._cut()
        for part in self.parts:
            part.fill(mass)
        self.rest_of_row = (groups * (1 - ROUNDED) - self._kept_of_groups(mass)).clamp(min=0)
        plain = measured, torch.ones_like(b), torch.zeros_like(groups)
        if sweep.bands is None:  # one profile for all
            kept = torch.stack([part.spread(*plain) for part in self.parts]).sum(0)
            profiles = (sweep.columns - share.masses(kept))[None]
        else:
            counted = BandMasses(share)
            for part in self.parts:
                for counts in part.spread_by_piece(*plain):
                    counted.add(counts)
            profiles = (sweep.bands if fine else by_run(sweep.bands, share)) * (1 - ROUNDED)
            profiles -= counted.masses()
        self._set_profiles(profiles)
        self.entropy_of_rest = math.nan
        if sweep.bits is not None:
            # The sweep knows the entropy of the whole plan, hence that of the rest as a distribution of its own.
            rest = max(share.total(a * self.rest_of_row.sum(1)), TINY)
            total = _entropy(a).item() + share.total(a * sweep.bits) * math.log(2)
            left = total - self._entropy_of(lambda some: a[self.kept.i[some]] * mass[some]) + rest * math.log(rest)
            self.entropy_of_rest = max(0.0, left) / rest
        if fed is not None:
            self._add(fed)

    def _rest_matters(self, rows: Float[Tensor, " n"], mass: Float[Tensor, " k"], columns: Float[Tensor, " m"]) -> bool:
        """Return whether the rest is worth blocks, else one group of columns and one piece per run of rows do for it.

        It is where it holds a part of the plan, or most of the mass of some columns: outliers, which are no row's
        nearest.
        """
        unkept = (1 - add_by_index(torch.zeros_like(rows), self.kept.i, mass)).clamp(min=0)
        if self.share.total(rows * unkept) > NEGLIGIBLE:
            return True
        counts = to_fixed_point(rows[self.kept.i] * mass)
        kept = self.share.masses(torch.zeros_like(columns, dtype=counts.dtype).index_add_(0, self.kept.j, counts))
        return bool((kept < LACKING * columns).any())

    def _kept_of_groups(self, mass: Float[Tensor, " k"]) -> Float[Tensor, "n g"]:
        """Sum the kept entries of each row over each group of columns."""
        count = len(self.width)
        sums = torch.zeros(len(self.a) * count, dtype=mass.dtype, device=mass.device)
        i, j = self.kept.i, self.kept.j
        group = i if count == 1 else i.long() * count + self.group_of_column[j]
        return add_by_index(sums, group, mass).view(-1, count)

    def _set_profiles(self, profiles: Float[Tensor, "r m"]) -> None:
        """Give bands the profiles of their rest over the columns of each group, in place; a single one is of all."""
        profiles.clamp_(min=LEAST)
        sums = add_by_index(profiles.new_zeros(len(self.width), len(profiles)), self.group_of_column, profiles.T)
        for own, total in zip(profiles, sums.T, strict=True):
            own /= total[self.group_of_column]
        self.profiles, single = profiles, len(profiles) < self.parts[-1].bands.stop
        for part in self.parts:
            part.profile = profiles if single else profiles[part.bands]

    def _cut(self) -> None:
        """Cut the entries into parts, a thread each."""
        share, i, j = self.share, self.kept.i, self.kept.j
        sections = [share.sections[k].start for k in share.mine] + [share.rows.stop]
        self.cuts = torch.searchsorted(i, i.new_tensor(sections)).tolist()
        bounds = [piece.start for piece in self.pieces] + [share.rows.stop]
        positions = torch.searchsorted(i, i.new_tensor(bounds)).tolist()
        kind, most = part_kind(self.b.device), self.workers.threads if self.b.device.type == "cpu" else 1
        count = min(len(bounds) - 1, most, 1 + len(i) // BUSY)
        cuts = [(len(bounds) - 1) * k // count for k in range(count + 1)]
        bands = share.bands(len(self.pieces))

        def cut(run: tuple[int, int]) -> SurrogatePart:
            entries = slice(positions[run[0]], positions[run[1]])
            inside = bounds[run[0] : run[1] + 1]
            own = bands[run[0] : run[1]]
            return kind(i[entries], j[entries], inside, own, entries, self.group_of_column)

        self.parts = list(self.workers.map(cut, list(pairwise(cuts))))

    def _add(self, fed: Fed) -> None:
        """Continue at the potential of `fed`: rows share their mass with its columns, whose entries are all kept."""
        kept, added = self.kept, fed.entries
        others = ~torch.isin(kept.j, fed.columns)
        i, j = torch.cat([kept.i[others], added.i]), torch.cat([kept.j[others], added.j])
        logits = torch.cat([(kept.logits.double() - fed.shift[kept.i])[others], added.logits])
        order = i.argsort(stable=True)
        self.gamma, self.kept = fed.gamma, KeptEntries(Entries(i[order], j[order], logits[order]), self.log_b)
        self.rest_of_row = self.rest_of_row * (-fed.shift).exp2()[:, None]
        profiles = self.profiles.expand(self.parts[-1].bands.stop, -1).clone()
        self._cut()
        profiles[:, fed.columns] = LEAST
        self._set_profiles(profiles)

    def solve(self, sharpen: float, tol: float) -> Expected:
        """Solve the surrogate at 1 / sharpen times the sweep's eps."""
        found = self.scalings(sharpen, tol)
        outside = torch.zeros_like(found.scaling)
        for part in self.parts:
            outside[part.rows] = part.outside(found.x.exp2(), found.r)
        rest = self.share.total(found.scaling * outside)
        kept = self._entropy_of(lambda some: self.kept.plan(found, some))
        nats = kept + rest * (self.entropy_of_rest - math.log(max(rest, TINY)))
        gamma = (self.gamma - self.log_b) * sharpen + self.log_b + found.x
        return Expected(gamma, found.rows, found.error, rest, nats, found.source)

    def scalings(self, sharpen: float, tol: float) -> Scalings:
        """Find the solution at 1 / sharpen times the sweep's eps, without its properties.

        Sinkhorn iterations with Anderson acceleration do for most; where they do not end, Newton's method goes on; and
        where that stops short, a descent from a larger eps leads to a better start.
        """
        found = self._solve_from(self.start, sharpen, tol)
        if found.error > max(FAILED, tol):
            x = self.start * BLURS[0]
            for blur, cooler in pairwise((*BLURS, 1.0)):
                x = self._solve_from(x, sharpen * blur, FAILED).x * (cooler / blur)
            again = self._solve_from(x.clamp(-BOUND, BOUND), sharpen, tol)
            found = again if again.error < found.error else found
        self.start = found.x if found.error < SOLVED else self.start
        return found

    def foretell(self, gamma: Float[Tensor, " m"], phi: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Foretell the log-sums of this process's rows at a gamma and the last solution's eps, given the pass's."""
        sharpen, top, r = self._filled
        v = (gamma - self.log_b - (self.gamma - self.log_b) * sharpen).clamp(-BOUND, BOUND).exp2()
        out = torch.zeros_like(phi)
        for part in self.parts:
            ahead = part.times(v, r).clamp(min=TINY).log2()
            out[part.rows] = sharpen * phi[part.rows] + ahead + top[part.rows]
        return out

    def distance(self, tol: float) -> float:
        """Compute the L1 distance between the plan that the sweep found and the one whose marginals are a and b."""
        found = self._solve_from(self.start, 1.0, tol)
        v = found.x.exp2()

        def work(part: SurrogatePart) -> Int64[Tensor, " 1"]:
            before = power_of_two(self.kept.logits[part.entries])
            moved = self.kept.plan(found, part.entries) - self.a[self.kept.i[part.entries]] * before
            # A distance may be 2, which has no fixed point; a fourth of it has.
            changed = to_fixed_point(moved.abs() / 4).sum()
            rests = part.rest(found.scaling, found.r), part.rest(self.a, self.rest_of_row)
            for piece, (now, then) in enumerate(zip(*rests, strict=True)):
                rest = (now[self.group_of_column] * v - then[self.group_of_column]) * part.profile_of(piece)
                changed += to_fixed_point(rest.abs() / 4).sum()
            return changed[None]

        return 4 * self.share.masses(torch.cat(list(self.workers.map(work, self.parts))).sum()[None]).item()

    def _solve_from(self, x: Float[Tensor, " m"], sharpen: float, tol: float) -> Scalings:
        """Solve at 1 / sharpen times the sweep's eps from the columns' scaling 2^x."""
        top = self.kept.tops(sharpen, len(self.a))
        self.kept.fill(sharpen, top)
        # An entry of a block's rest is about the block's mean, and at most the least that was kept.
        least = self.share.each([-self.kept.lowest(slice(low, high)) for low, high in pairwise(self.cuts)])
        mean = (self.rest_of_row / self.width).clamp(min=TINY).log2()
        growth = (MEAN * mean - (1 - MEAN) * least.max() - self.log_b.mean()) * (sharpen - 1)
        if sharpen < 1:  # where nearly all is kept, the rest is only rounding, which must not grow
            growth = growth.clamp(max=SPREAD)
        r = self.rest_of_row * (growth - top[:, None]).clamp(max=BOUND).exp2()
        list(self.workers.map(lambda part: part.fill(self.kept.mass), self.parts))
        self._filled = sharpen, top, r
        best, error, scaling, source = x, math.inf, torch.ones_like(self.a), self.a
        self._begin(sharpen, top)
        made = islice(self._iterations(x, r), ITERATIONS)
        while error >= tol and (some := list(islice(made, EVERY[x.device.type]))):
            counts = torch.stack([counted for *_, counted in some]).tolist()
            for (x, u, self.a, _), now in zip(some, map(as_distance, counts), strict=True):
                if now < error:
                    best, error, scaling, source = x, now, u, self.a
                if now < tol:
                    break  # as if none had been made after it
        if error > max(tol, SOLVED_WELL) and self.rigid:
            best, error, scaling = self._newton(best, r, tol)
        return Scalings(best, scaling, error, sharpen, top, r, source)

    def _iterations(
        self, x: Float[Tensor, " m"], r: Float[Tensor, "n g"]
    ) -> Iterator[tuple[Float[Tensor, " m"], Float[Tensor, " n"], Float[Tensor, " n"], Int64[Tensor, ""]]]:
        """Yield each iteration's columns' and rows' scalings, masses of the rows and counted error (`as_distance`)."""
        anderson = Anderson(MEMORY, self.share.team)
        while True:
            u, column = self._iterate(x.exp2(), r)
            wanted = self._wanted(x)
            yield x, u, self.a, counted_distance(column, wanted)
            change = (wanted / column.clamp(min=1 / UNIT)).log2() * self.damping
            x = anderson.mix(x, x + change).clamp(-BOUND, BOUND)

    def _begin(self, sharpen: float, top: Float[Tensor, " n"]) -> None:
        """Prepare for iterations at 1 / sharpen times the sweep's eps, whose rows' logits are less `top`."""

    def _wanted(self, x: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Return the target marginal that is wanted at the columns' scaling 2^x."""
        return self.b

    def _iterate(
        self, v: Float[Tensor, " m"], r: Float[Tensor, "n g"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
        """Compute the rows' scaling that fits the columns' scaling v, and the columns' masses under both."""
        u = torch.zeros_like(self.a)

        def work(part: SurrogatePart) -> Int64[Tensor, " m"]:
            u[part.rows] = self.a[part.rows] / part.times(v, r).clamp(min=TINY)
            return part.spread(u, v, r)

        return u, self._sum(work)

    def _sum(self, work: Callable[[SurrogatePart], Int64[Tensor, " m"]]) -> Float[Tensor, " m"]:
        """Sum the masses of columns that `work` counts in each part, over all processes."""
        masses = torch.zeros_like(self.b, dtype=torch.int64)
        for counted in self.workers.map(work, self.parts):
            masses += counted
        return self.share.masses(masses)

    def _newton(
        self, x: Float[Tensor, " m"], r: Float[Tensor, "n g"], tol: float
    ) -> tuple[Float[Tensor, " m"], float, Float[Tensor, " n"]]:
        """Maximise the dual by Newton's method with conjugate gradients, for what Sinkhorn iterations do not end.

        Parts that exchange little mass, and weights of many magnitudes, make iterations slow however they are mixed.
        """
        u, column = self._iterate(x.exp2(), r)
        value = self._dual(x, u)
        for _ in range(NEWTON):
            if distance(column, self.b) < tol:
                break
            step = self._direction(x.exp2(), u, column, self.b - column, r)
            longest = self.share.decided(step.abs().max().item())
            if longest == 0:
                break
            step *= min(1.0, LEAP / longest)
            for _ in range(HALVINGS):
                there = (x + step).clamp(-BOUND, BOUND)
                u_there, column_there = self._iterate(there.exp2(), r)
                found = self._dual(there, u_there)
                if found > value:
                    break
                step = step / 4
            else:
                break
            x, u, column, value = there, u_there, column_there, found
        return x, distance(column, self.b), u

    def _dual(self, x: Float[Tensor, " m"], u: Float[Tensor, " n"]) -> float:
        """Compute <b, x> - sum_i a_i log2 of row i's sum, where u = a / sum."""
        return self.share.decided((self.b @ x).item()) - self.share.total(self.a * (self.a / u).log2())

    def _direction(
        self,
        v: Float[Tensor, " m"],
        u: Float[Tensor, " n"],
        column: Float[Tensor, " m"],
        slope: Float[Tensor, " m"],
        r: Float[Tensor, "n g"],
    ) -> Float[Tensor, " m"]:
        """Solve (diag(column) - P^T diag(1 / a) P) x = slope by conjugate gradients, preconditioned by the diagonal."""
        scale = 1 / column.clamp(min=TINY).sqrt()
        x, residual = torch.zeros_like(slope), slope * scale
        decided = self.share.decided
        direction, square = residual, decided((residual @ residual).item())
        wanted = square * CLOSER**2
        for _ in range(GRADIENTS):
            w = scale * direction
            size = w.abs().max()
            image = (column * w - self._exchanged(v, u, w / size, r) * size) * scale
            curvature = decided((direction @ image).item())
            if curvature <= 0:
                break
            length = square / curvature
            x, residual = x + length * direction, residual - length * image
            before, square = square, decided((residual @ residual).item())
            if square < wanted:
                break
            direction = residual + (square / before) * direction
        return scale * x / math.log(2)

    def _exchanged(
        self, v: Float[Tensor, " m"], u: Float[Tensor, " n"], w: Float[Tensor, " m"], r: Float[Tensor, "n g"]
    ) -> Float[Tensor, " m"]:
        """Compute P^T diag(1 / a) P w for the plan P of both scalings."""
        sent, vw = torch.zeros_like(u), v * w

        def work(part: SurrogatePart) -> Int64[Tensor, " m"]:
            rows = part.rows
            sent[rows] = u[rows] ** 2 / self.a[rows] * part.times(vw, r)
            return part.spread(sent, v, r)

        return self._sum(work)

    def _entropy_of(self, masses: Callable[[slice], Float[Tensor, " k"]]) -> float:
        """Sum -p log p over the kept entries of all processes, given their masses by position."""
        each = [_entropy(masses(slice(low, high))) for low, high in pairwise(self.cuts)]
        return self.share.each(each).sum().item()


def _entropy(masses: Float[Tensor, "*k"]) -> Float[Tensor, ""]:
    return torch.special.entr(masses).sum()
