"""The KeOps backend: reductions compiled for the number of features, which never write a tile to memory.

Everything but the argmax is one formula, M(x, y, w) = (t, sum_j w_j e^(z_ij - t_i), sum_j w_j e^(z_ij - t_i) z_ij) with
z_ij = x_i.y_j and t_i = max_j z_ij, because compiling one takes seconds: with rows as x it gives the rows' sums, then
their entropies, with columns as x the target marginal, and with some of the columns as y the chunks of a draw. Points
carry gamma as a feature, and one more for what is subtracted from a row, so that no digits are lost between the calls.
"""

import functools
import math
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowpairs.pipeline.ot.partners.inverse_cdf import CHUNK, chunk_of, first_beyond
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.sinkhorn.sweep import Sweep, large_entries
from flowpairs.pipeline.ot.tiles import tiling
from flowpairs.pipeline.ot.tiles.logits import InnerLogits, Logits
from flowpairs.pipeline.ot.tiles.partition import SINGLE, UNIT, RowPartition, Team, to_fixed_point
from flowpairs.pipeline.ot.tiles.tiling import Workers

LN2 = math.log(2)
WIDTH = 4  # features are padded to a multiple of it, so that a formula serves several numbers of features
MOST = 2**24  # rows per side: KeOps returns their numbers as float32


class KeOps:
    """A `Backend` for inner-product costs, on CUDA or, through a C++ compiler, on a CPU."""

    def refusal(self, problem: Problem) -> str | None:
        """Explain why it cannot serve a problem; None if it can."""
        if callable(problem.cost):
            return "a cost given as a function needs torch tiles"
        if max(problem.n, problem.m) > MOST:
            return f"more than {MOST} rows need torch tiles"
        try:
            config: Any = _import("pykeops.config")
        except ImportError as error:
            return f"pykeops cannot be imported ({error})"
        if problem.x0.is_cuda and not config.gpu_available:
            return "pykeops finds no CUDA"
        if config.pykeops_base.get_cxx_compiler() is None:
            return "pykeops finds no C++ compiler"
        return None

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
        """See `Backend.sweep`; the large entries are found by torch tiles."""
        x, y, top, total = _below_top(logits, share)
        phi, bits = torch.zeros_like(a), torch.zeros_like(a) if entropies else None
        phi[share.rows] = top.double() / LN2 + total.double().log2()
        weights = (a[share.rows] / total).to(y.dtype)
        pieces: list[Tensor] = []
        for piece in share.all_pieces() if marginal else ():  # one sum per piece, or it would depend on the team's size
            part = slice(piece.start - share.rows.start, piece.stop - share.rows.start)
            highest, mass, _ = _moments(y, x[part], weights[part])
            pieces.append(to_fixed_point(highest.exp() * mass))
        if bits is not None:
            _, mass, moment = _moments(x, y, torch.ones_like(y[:, 0]))
            bits[share.rows] = total.double().log2() - (moment / mass).double() / LN2
        masses = share.masses(sum(pieces, torch.zeros_like(gamma, dtype=torch.int64)))
        if keep is None:
            return Sweep(gamma, phi, masses, bits)
        entries = large_entries(logits, phi, share, workers, keep)
        return Sweep(gamma, phi, masses, bits, entries, torch.stack(pieces).double() / UNIT)

    def argmax(self, logits: Logits, team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.argmax`."""
        share = RowPartition(logits.n, logits.m, logits.device, team)
        x, y = _points(logits, share)
        best = torch.zeros(logits.n, dtype=torch.int64, device=logits.device)
        if len(x):
            best[share.rows] = _call(_argmax_formula(x.shape[1]), x, y)[:, 0]
        return share.gather(best)

    def draw(self, logits: Logits, u: Float[Tensor, " n"], team: Team = SINGLE) -> Int[Tensor, " n"]:
        """See `Backend.draw`; KeOps finds each chunk's mass, and torch the entries of the chunk that was hit."""
        share = RowPartition(logits.n, logits.m, logits.device, team)
        drawn = torch.zeros(logits.n, dtype=torch.int64, device=logits.device)
        with Workers(logits.device):
            x, y, _, _ = _below_top(logits, share)
            mine, uniforms = drawn[share.rows], u[share.rows]
            step = tiling.tile_rows(CHUNK * x.shape[1], logits.device)
            for rows in (slice(start, start + step) for start in range(0, len(x), step)):
                mine[rows] = _draw(x[rows], y, uniforms[rows])
        return share.gather(drawn)


def _draw(x: Float[Tensor, "r k"], y: Float[Tensor, "m k"], u: Float[Tensor, " r"]) -> Int[Tensor, " r"]:
    """Draw a column for each of some rows, whose largest logit is 0."""
    parts = [_moments(x, part, torch.ones_like(part[:, 0])) for part in y.split(CHUNK)]
    masses = torch.stack([highest.exp() * mass for highest, mass, _ in parts], 1).double()
    chunk, aim = chunk_of(masses, u)
    columns = chunk * CHUNK + torch.arange(CHUNK, device=y.device)
    logits = torch.linalg.vecdot(y[columns.clamp(max=len(y) - 1)], x[:, None])
    logits = logits.masked_fill(columns >= len(y), -math.inf)
    # Relative to the chunk's own maximum and sum, since the two ways to sum differ by rounding.
    inside = (logits - logits.amax(1, keepdim=True)).exp().double().cumsum(1)
    aim = aim / masses.gather(1, chunk) * inside[:, -1:]
    return (chunk * CHUNK + first_beyond(inside, aim))[:, 0]


def _points(logits: Logits, share: RowPartition) -> tuple[Float[Tensor, "r k"], Float[Tensor, "m k"]]:
    """Build this member's rows and all columns, with the logits in nats as products and a feature for a row's shift."""
    assert isinstance(logits, InnerLogits)
    left, right = logits.left[share.rows] * LN2, logits.right
    room = -(-(left.shape[1] + 1) // WIDTH) * WIDTH - left.shape[1]
    x, y = (torch.nn.functional.pad(points, (0, room)) for points in (left, right))
    y[:, -1] = 1
    return x, y


def _below_top(
    logits: Logits, share: RowPartition
) -> tuple[Float[Tensor, "r k"], Float[Tensor, "m k"], Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Build points whose products are the logits less their row's maximum, in nats; also the maxima and row sums."""
    x, y = _points(logits, share)
    top, total, _ = _moments(x, y, torch.ones_like(y[:, 0]))
    x[:, -1] = -top
    return x, y, top, total


def _moments(
    x: Float[Tensor, "r k"], y: Float[Tensor, "c k"], w: Float[Tensor, " c"]
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Evaluate the formula at the top of this file."""
    if len(x) == 0:
        return x[:, 0], x[:, 0], x[:, 0]
    top, total, moment = _call(_moments_formula(x.shape[1]), x, y, w[:, None]).unbind(1)
    return top, total, moment


@functools.cache
def _moments_formula(k: int) -> Any:
    aliases = [f"x=Vi({k})", f"y=Vj({k})", "w=Vj(1)"]
    return _import("pykeops.torch").Genred(
        "(x|y)", aliases, reduction_op="Max_SumShiftExpWeight", axis=1, formula2="Concat(w, w*(x|y))"
    )


@functools.cache
def _argmax_formula(k: int) -> Any:
    return _import("pykeops.torch").Genred("(x|y)", [f"x=Vi({k})", f"y=Vj({k})"], reduction_op="ArgMax", axis=1)


def _call(formula: Any, *points: Tensor) -> Tensor:
    """Call a formula with one thread per row rather than by KeOps's choice, so that sums are reproducible."""
    return formula(*(part.contiguous() for part in points), backend="GPU_1D" if points[0].is_cuda else "CPU")


def _import(module: str) -> Any:
    """Import a part of pykeops, which looks for compilers and devices when it is imported, and prints what it finds."""
    import importlib

    os.environ.setdefault("PYKEOPS_VERBOSE", "0")
    os.environ.setdefault("KEOPS_VERBOSE", "0")
    try:
        return importlib.import_module(module)
    except (EOFError, pickle.UnpicklingError):
        # KeOps's record of what is compiled is cut short: a process was killed while writing it, or is writing it now.
        # Without the record, compiled formulas are found again by their names.
        folder = importlib.import_module("keopscore").build_folder
        for note in Path(folder).glob("*_cache.pkl"):
            note.unlink(missing_ok=True)
        return importlib.import_module(module)
