"""The launches of the kernels over some rows of a kernel's logits, and the sums of what they write."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from flowpairs.pipeline.ot.backends.fused.halves import Halves, split_once
from flowpairs.pipeline.ot.tiles.logits import InnerLogits
from flowpairs.pipeline.ot.tiles.tiling import column_groups

WORD = 32  # tiles of a word of flags
ROOM = 2**24  # logits that are gathered at a time


class TileShape(NamedTuple):
    """A tile's rows and columns, its features of a step, and how the compiler is to run it."""

    rows: int
    columns: int
    features: int  # at the most: fewer where the points have fewer
    warps: int
    stages: int

    def step(self, d: int) -> int:
        """Compute the features of a step for points of d features: a power of two from 16, as tensor cores want."""
        return min(self.features, max(16, 1 << (d - 1).bit_length()))


# By compute capability; the interpreter's serves CPUs. `make kernels` compiles them all.
SHAPES = {
    (8, 0): TileShape(128, 64, 32, 8, 3),
    (8, 9): TileShape(128, 64, 32, 8, 3),
    (9, 0): TileShape(128, 128, 64, 8, 3),
}
INTERPRETED = TileShape(128, 32, 16, 4, 1)


def tile_shape(device: torch.device) -> TileShape | None:
    """Return the shape of tiles for a device; None where none was compiled for it."""
    return INTERPRETED if device.type == "cpu" else SHAPES.get(torch.cuda.get_device_capability(device))


class RowSums(NamedTuple):
    """What a sweep found of some rows, at references near their log-sums."""

    phi: Float[Tensor, " r"]  # log2 of the rows' sums, float64
    bits: Float[Tensor, " r"]  # entropies in bits, float64
    groups: Float[Tensor, "r chunks"]  # mass of P(. | i) in each chunk
    columns: Int[Tensor, " m"]  # sum of weight_i 2^(logit - ref), in fixed point
    tiles: Int[Tensor, "2 k"]  # row and tile where a logit is not below `low`


class FusedLogits:
    """Logits on a device, as their kernels take them.

    Args:
        rows: halves of the rows' points, times what makes logits of their products with the columns'.
        columns: halves of the columns' points.
        gamma: what is added to those of each column [m].
        shape: of the tiles.
        width: columns of a chunk but the last; None: of `column_groups`, whose last chunk is the widest.
    """

    def __init__(
        self,
        rows: Halves,
        columns: Halves,
        gamma: Float[Tensor, " m"],
        shape: TileShape,
        width: int | None = None,
    ) -> None:
        self.n, self.m, self.device, self.shape = len(rows.high), len(columns.high), rows.high.device, shape
        self.xh, self.xl, power0 = rows
        self.yh, self.yl, power1 = columns
        self.scale = 1.0 / (power0 * power1)
        self.gamma = gamma.float().contiguous()
        if width is None:
            groups = column_groups(self.m)
            self.chunks, self.width, widest = len(groups), groups[0].stop, groups[-1].stop - groups[-1].start
        else:
            self.chunks, self.width, widest = -(-self.m // width), width, width
        self.words = -(-widest // (WORD * shape.columns))  # of flags, in a chunk
        self.chunk_tiles = self.words * WORD
        k = self.xh.shape[1]
        self.consts: dict[str, Any] = {
            "K": k, "BM": shape.rows, "BN": shape.columns, "BK": shape.step(k),
            "num_warps": shape.warps, "num_stages": shape.stages,
        }  # fmt: skip

    @classmethod
    def of(cls, logits: InnerLogits, shape: TileShape) -> "FusedLogits":
        """Split the points of logits; chunks are those of `column_groups`."""
        step = shape.step(logits.rows.d)
        rows, columns = split_once(logits.rows, step, logits.scale), split_once(logits.columns, step)
        return cls(rows, columns, logits.gamma, shape)

    def log_sums(self, rows: slice) -> tuple[Float[Tensor, "r chunks"], Float[Tensor, "r chunks"]]:
        """Compute the largest logit of some rows in each chunk, and the chunk's sum of 2^(logit - largest)."""
        from flowpairs.pipeline.ot.backends.fused.kernels import log_sum_kernel

        top, rest = (self._room(rows, torch.float32) for _ in range(2))
        log_sum_kernel[self._grid(rows)](*self._points(rows), top, rest, *self._sizes(rows), self.scale, **self.consts)
        return top, rest

    def sweep(
        self, rows: slice, ref: Float[Tensor, " r"], weight: Float[Tensor, " r"], low: Float[Tensor, " r"] | None
    ) -> RowSums:
        """Sweep over some rows at float32 references, with weights that are to be ref's part of the marginal.

        Args:
            rows: the rows.
            ref: about the rows' log-sums.
            weight: what a row's 2^(logit - ref) are multiplied with in the columns' sums.
            low: logit - ref from which a row's tiles are listed; None lists none.
        """
        from flowpairs.pipeline.ot.backends.fused.kernels import sweep_kernel

        count = rows.stop - rows.start
        columns = torch.zeros(self.m, dtype=torch.int64, device=self.device)
        mass, moment = (self._room(rows, torch.float32) for _ in range(2))
        flags = torch.zeros(count, self.chunks, self.words, dtype=torch.int32, device=self.device)
        sweep_kernel[self._grid(rows)](
            *self._points(rows), ref, weight, ref if low is None else low, columns, mass, moment, flags,
            *self._sizes(rows), self.words, self.scale, FLAGS=low is not None, **self.consts,
        )  # fmt: skip
        total = ordered_sum(mass.double())
        phi = ref.double() + total.log2()
        bits = total.log2() - ordered_sum(moment.double()) / total
        bit = torch.arange(WORD, dtype=torch.int32, device=self.device)
        tiles = (flags[..., None] >> bit & 1).view(count, -1).nonzero().T
        return RowSums(phi, bits, (mass.double() / total[:, None]).float(), columns, tiles)

    def largest(self, rows: slice) -> tuple[Int[Tensor, " r"], Float[Tensor, " r"], Float[Tensor, " r"]]:
        """Find the first column of some rows' largest logit, that logit, and the largest of the other columns."""
        from flowpairs.pipeline.ot.backends.fused.kernels import argmax_kernel

        best, second = (self._room(rows, torch.float32) for _ in range(2))
        where = self._room(rows, torch.int32)
        argmax_kernel[self._grid(rows)](
            *self._points(rows), best, where, second, *self._sizes(rows), self.scale, **self.consts
        )
        top = best.amax(1, keepdim=True)
        column = where.long().masked_fill(best < top, self.m).amin(1)
        own = where == column[:, None]
        other = torch.where(own, second, best).amax(1)
        return column, top[:, 0], other

    def gather(
        self, ref: Float[Tensor, " n"], rows: Int[Tensor, " k"], tiles: Int[Tensor, " k"]
    ) -> Float[Tensor, "k columns"]:
        """Compute logit - ref of single rows in single tiles, in the bits of `sweep`; past a chunk's end nothing's.

        Args:
            ref: float32 references of all rows.
            rows: rows, in any order.
            tiles: tile of each, counted through all chunks by `chunk_tiles`.
        """
        from flowpairs.pipeline.ot.backends.fused.kernels import gather_kernel

        size = self.shape.rows
        order = (tiles * self.n + rows).argsort()
        kinds, counts = tiles[order].unique_consecutive(return_counts=True)
        programs = -(-counts // size)
        ahead = size * (programs.cumsum(0) - programs) - (counts.cumsum(0) - counts)  # free slots before each tile
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order), device=self.device) + ahead.repeat_interleave(counts)
        listed = torch.full((size * int(programs.sum()),), self.n, dtype=torch.int32, device=self.device)
        listed[slot] = rows.int()
        chunk = kinds // self.chunk_tiles
        firsts = self._first_columns(kinds)
        stops = torch.where(chunk == self.chunks - 1, self.m, (chunk + 1) * self.width)
        firsts, stops = (bound.int().repeat_interleave(programs) for bound in (firsts, stops))
        logits = torch.empty(len(listed), self.shape.columns, device=self.device)
        if len(firsts):
            gather_kernel[(len(firsts),)](
                self.xh, self.xl, self.yh, self.yl, self.gamma, ref, listed, firsts, stops, logits, self.n, self.scale,
                **self.consts,
            )  # fmt: skip
        return logits[slot]

    def listed(
        self, ref: Float[Tensor, " n"], first: int, tiles: Int[Tensor, "2 k"], bound: Float[Tensor, " r"]
    ) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"], Float[Tensor, " e"]]:
        """List the logits less ref in some tiles that are at least the bound of their row.

        Args:
            ref: float32 references of all rows.
            first: the row that is number 0 in `tiles`.
            tiles: rows from `first`, and the tile of each, as a sweep lists them.
            bound: of the rows from `first`.

        Returns:
            Rows from `first`, columns and logits, in the order of `tiles` and then of the columns.
        """
        found = []
        row, tile = tiles
        step = max(1, ROOM // self.shape.columns)
        for start in range(0, max(1, len(row)), step):
            own, at = row[start : start + step], tile[start : start + step]
            logits = self.gather(ref, own + first, at)
            hit, column = (logits >= bound[own, None]).nonzero().unbind(1)
            found.append((own[hit], self.columns_of(at)[hit, column], logits[hit, column]))
        rows, columns, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
        return rows, columns, logits

    @property
    def rows_of_chunks(self) -> int:
        """Return how many rows' chunks may be gathered at a time."""
        return max(1, ROOM // (self.chunk_tiles * self.shape.columns))

    def chunk(
        self, ref: Float[Tensor, " n"], rows: Int[Tensor, " r"], chunk: Int[Tensor, " r"]
    ) -> Float[Tensor, "r width"]:
        """Compute logit - ref of single rows in a chunk of each, by its columns; past its end nothing's."""
        tiles = chunk[:, None] * self.chunk_tiles + torch.arange(self.chunk_tiles, device=self.device)
        return self.gather(ref, rows.repeat_interleave(self.chunk_tiles), tiles.flatten()).view(len(rows), -1)

    def columns_of(self, tiles: Int[Tensor, " k"]) -> Int[Tensor, "k columns"]:
        """Return the numbers of the columns of tiles."""
        return self._first_columns(tiles)[:, None] + torch.arange(self.shape.columns, device=self.device)

    def _first_columns(self, tiles: Int[Tensor, " k"]) -> Int[Tensor, " k"]:
        return tiles // self.chunk_tiles * self.width + tiles % self.chunk_tiles * self.shape.columns

    def _grid(self, rows: slice) -> tuple[int, int]:
        return -(-(rows.stop - rows.start) // self.shape.rows), self.chunks

    def _points(self, rows: slice) -> tuple[Tensor, ...]:
        return self.xh[rows], self.xl[rows], self.yh, self.yl, self.gamma

    def _sizes(self, rows: slice) -> tuple[int, int, int]:
        return rows.stop - rows.start, self.m, self.width

    def _room(self, rows: slice, dtype: torch.dtype) -> Shaped[Tensor, "r chunks"]:
        return torch.empty(rows.stop - rows.start, self.chunks, dtype=dtype, device=self.device)


def ordered_sum(parts: Float[Tensor, "r chunks"]) -> Float[Tensor, " r"]:
    """Sum chunks in their order, whatever number of rows there is; torch chooses an order by the shape."""
    total = parts[:, 0].clone()
    for part in parts.unbind(1)[1:]:
        total += part
    return total
