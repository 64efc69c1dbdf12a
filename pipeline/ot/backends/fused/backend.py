"""The Triton backend: passes, draws and largest entries by kernels that keep every logit on the chip.

A pass is two sweeps over the entries: one for the rows' log-sums, one at these for all else. Where the log-sums are
foretold, it is the second alone, which finds the true ones: its target marginal is that of the plan whose rows have the
masses that the foretold ones give them.
"""

import importlib.util
import os
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.backends.fused.fused_logits import FusedLogits, RowSums, tile_shape
from flowpairs.pipeline.ot.partners.inverse_cdf import chunk_of, first_beyond
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.sinkhorn.sweep import Entries, Sweep, deepest_kept
from flowpairs.pipeline.ot.tiles.bands import BandMasses
from flowpairs.pipeline.ot.tiles.logits import InnerLogits, Logits
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition, Team
from flowpairs.pipeline.ot.tiles.tiling import Workers

HALVINGS = 8  # of a window in which there are too many entries
OFF = 0.9  # bits by which foretold log-sums may be off: masses stay below 2, where integers end


def unserved(device: torch.device) -> str | None:
    """Explain why there are no kernels for a device; None where there are."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'flowpairs[triton]')"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "it needs CUDA"
    if tile_shape(device) is None:
        return f"it has no kernels for {torch.cuda.get_device_name(device)}"
    return None


class Fused:
    """A `Backend` for inner-product costs in float32, on CUDA; on CPUs through Triton's interpreter, for tests."""

    foretells = True

    def refusal(self, problem: Problem) -> str | None:
        """Explain why it cannot serve a problem; None if it can."""
        if callable(problem.cost):
            return "a cost given as a function needs torch tiles"
        if problem.x0.dtype != torch.float32:
            return "it computes in float32 and the points are float64"
        return unserved(problem.x0.device)

    def sweep(
        self,
        logits: Logits,
        gamma: Float[Tensor, " m"],
        a: Float[Tensor, " n"],
        share: RowPartition,
        workers: Workers,
        *,
        keep: int | None = None,
        entropies: bool = False,
        marginal: bool = True,
        foretold: Float[Tensor, " n"] | None = None,
    ) -> Sweep:
        """See `Backend.sweep`; entropies cost nothing and are always found where the marginal is.

        Pieces of rows of which a foretold log-sum is off by OFF are passed once more, at exact ones.
        """
        fused, phi = _fused(logits), torch.zeros_like(a)
        if not marginal and keep is None and not entropies:
            for rows in share.all_pieces():
                _, phi[rows] = _log_sums(fused, rows)
            return Sweep(gamma, phi, torch.zeros_like(gamma))
        window = None if keep is None else share.decided(deepest_kept(logits, keep, of_sum=foretold is not None))
        bits, groups = torch.zeros_like(a), a.new_zeros(fused.n, fused.chunks, dtype=torch.float32)
        ref, masses = a.new_zeros(fused.n, dtype=torch.float32), a.clone()
        bands, found, columns = BandMasses(share), [], torch.zeros_like(gamma, dtype=torch.int64)

        def swept(rows: slice, sums: Tensor, head: Tensor) -> RowSums:
            """Sweep at log-sums of rows, and mark what is near their head."""
            ref[rows] = sums.float()
            # What float32 takes from a reference is given back by the weight.
            weight = (a[rows] * (ref[rows].double() - sums).exp2()).float()
            low = None if window is None else (head - ref[rows].double() - window).float()
            return fused.sweep(rows, ref[rows], weight, low)

        for rows in share.all_pieces():
            if foretold is None:
                head, sums = _log_sums(fused, rows)
                part = swept(rows, sums, head)
            else:
                head = foretold[rows]
                part = swept(rows, head, head)
                off = part.phi - head
                if bool((off.abs() < OFF).all()):
                    masses[rows] = a[rows] * off.exp2()
                else:
                    _, head = _log_sums(fused, rows)
                    part = swept(rows, head, head)
            phi[rows], bits[rows], groups[rows] = part.phi, part.bits, part.groups
            columns += part.columns
            if keep is not None and window is not None:
                bands.add(part.columns[None])
                found.append(_entries(fused, part, ref, rows, head, window, 4 * keep * len(head)))
        marginals = share.masses(columns if marginal else torch.zeros_like(columns))
        seen = Sweep(gamma, phi, marginals, bits)
        if keep is not None:
            i, j, logit = (torch.cat(parts) for parts in zip(*found, strict=True))
            seen = replace(seen, entries=Entries(i, j, logit), bands=bands.masses(), groups=groups)
        return seen if foretold is None else _of_masses(seen, masses, share.total(masses))

    def argmax(self, logits: Logits, team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.argmax`."""
        fused = _fused(logits)
        share = RowPartition(logits.n, logits.m, logits.device, team)
        best = torch.zeros(logits.n, dtype=torch.int64, device=logits.device)
        for rows in share.all_pieces():
            best[rows], _, _ = fused.largest(rows)
        return share.gather(best)

    def draw(self, logits: Logits, u: Float[Tensor, " n"], team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.draw`; a sweep finds the chunks' masses, and only the chunk that is hit is computed again."""
        fused = _fused(logits)
        share = RowPartition(logits.n, logits.m, logits.device, team)
        drawn = torch.zeros(logits.n, dtype=torch.int64, device=logits.device)
        ref = torch.zeros(logits.n, device=logits.device)
        for piece in share.all_pieces():
            top, rest = fused.log_sums(piece)
            ref[piece] = top.amax(1)
            masses = rest.double() * (top.double() - ref[piece].double()[:, None]).exp2()
            chunk, aim = chunk_of(masses, u[piece])
            share_of_chunk = aim / masses.gather(1, chunk)
            for some in torch.arange(len(chunk), device=logits.device).split(fused.rows_of_chunks):
                drawn[some + piece.start] = _draw(fused, ref, some + piece.start, chunk[some], share_of_chunk[some])
        return share.gather(drawn)


def _of_masses(seen: Sweep, masses: Float[Tensor, " n"], total: float) -> Sweep:
    """Note the masses of the rows whose marginal was found, as shares of all: what all are off alike is no error."""
    bands = None if seen.bands is None else seen.bands / total
    return replace(seen, columns=seen.columns / total, bands=bands, masses=masses / total)


def _fused(logits: Logits) -> FusedLogits:
    """Prepare logits for the kernels."""
    shape = tile_shape(logits.device)
    assert isinstance(logits, InnerLogits)
    assert shape is not None
    return FusedLogits.of(logits, shape)


def _log_sums(fused: FusedLogits, rows: slice) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Compute the largest logit and the log-sum of some rows, float64."""
    top, rest = (part.double() for part in fused.log_sums(rows))
    highest = top.amax(1)
    scaled = rest * (top - highest[:, None]).exp2()
    return highest, highest + scaled.sum(1).log2()


def _entries(
    fused: FusedLogits,
    part: RowSums,
    ref: Float[Tensor, " n"],
    rows: slice,
    head: Float[Tensor, " r"],
    window: float,
    most: int,
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """List the entries at most `window` below their row's head; where they are too many, in a narrower window."""
    highest = (head - ref[rows].double()).float()
    i, j, logit = fused.listed(ref, rows.start, part.tiles, highest - window)
    for _ in range(HALVINGS):
        if len(i) <= most:
            break
        window /= 2
        within = logit >= highest[i] - window
        i, j, logit = i[within], j[within], logit[within]
    thin = slice(None, None, -(-len(i) // most) or 1)
    i, j, logit = i[thin], j[thin], logit[thin]
    order = (i * fused.m + j).argsort()
    i, j, logit = i[order], j[order], logit[order]
    shift = part.phi - ref[rows].double()
    return (i + rows.start).int(), j.int(), (logit.double() - shift[i]).float()


def _draw(
    fused: FusedLogits,
    ref: Float[Tensor, " n"],
    rows: Int[Tensor, " r"],
    chunk: Int[Tensor, "r 1"],
    aim: Float[Tensor, "r 1"],
) -> Int[Tensor, " r"]:
    """Draw a column of each row's chunk, at a share of the chunk's mass."""
    logits = fused.chunk(ref, rows, chunk[:, 0]).double()
    inside = (logits - logits.amax(1, keepdim=True)).exp2().cumsum(1)
    return (chunk * fused.width + first_beyond(inside, aim * inside[:, -1:]))[:, 0]
