"""The Triton backend: passes, draws and largest entries by kernels that keep every logit on the chip.

A pass is two sweeps over the entries: one for the rows' log-sums, one at these for all else.
"""

import importlib.util
import os

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
    ) -> Sweep:
        """See `Backend.sweep`; entropies cost nothing and are always found where the marginal is."""
        fused = _fused(logits)
        window = None if keep is None else share.decided(deepest_kept(logits, keep))
        phi, bits = torch.zeros_like(a), torch.zeros_like(a)
        groups = a.new_zeros(fused.n, fused.chunks, dtype=torch.float32)
        ref = a.new_zeros(fused.n, dtype=torch.float32)
        bands, found, masses = BandMasses(share), [], torch.zeros_like(gamma, dtype=torch.int64)
        for rows in share.all_pieces():
            top, sums = _log_sums(fused, rows)
            if not marginal and keep is None and not entropies:
                phi[rows] = sums
                continue
            ref[rows] = sums.float()
            # What float32 takes from a reference is given back by the weight.
            weight = (a[rows] * (ref[rows].double() - sums).exp2()).float()
            low = None if window is None else (top - ref[rows].double() - window).float()
            part = fused.sweep(rows, ref[rows], weight, low)
            phi[rows], bits[rows], groups[rows] = part.phi, part.bits, part.groups
            masses += part.columns
            if keep is not None and window is not None:
                bands.add(part.columns[None])
                found.append(_entries(fused, part, ref, rows, top, window, 4 * keep * len(top)))
        masses = share.masses(masses if marginal else torch.zeros_like(masses))
        if keep is None:
            return Sweep(gamma, phi, masses, bits if marginal or entropies else None)
        i, j, logit = (torch.cat(parts) for parts in zip(*found, strict=True))
        entries = Entries(i, j, logit)
        return Sweep(gamma, phi, masses, bits, entries, bands.masses(), groups)

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
    top: Float[Tensor, " r"],
    window: float,
    most: int,
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """List the entries at most `window` below their row's largest; where they are too many, in a narrower window."""
    highest = (top - ref[rows].double()).float()
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
