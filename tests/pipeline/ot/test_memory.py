"""What a pass allocates: nothing as large as a tile but a thread's buffers, or what tiles find would scatter memory."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowpairs.pipeline.blocks.features import Features, chunk_rows
from flowpairs.pipeline.ot import solve_sinkhorn
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.semidiscrete import entry_buffer, search, solver, tiled_scores
from flowpairs.pipeline.ot.semidiscrete import point_pass as passes
from flowpairs.pipeline.ot.semidiscrete import targets as sides
from flowpairs.pipeline.ot.semidiscrete.assign import Assignment
from flowpairs.pipeline.ot.sinkhorn import descent, measured_plan, surrogate, surrogate_part
from flowpairs.pipeline.ot.sinkhorn.surrogate_part import IntegerPart
from flowpairs.pipeline.ot.sinkhorn.sweep import sweep
from flowpairs.pipeline.ot.tiles import centred_points, ordered_sums, tiling
from flowpairs.pipeline.ot.tiles import equal_rows as alike
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers, tile_rows
from flowpairs.pipeline.solve.device_memory import FIXED, ahead_bytes, block_bytes, data_bytes

M, KEEP = 16_384, 64
STEP = 2**12  # entries that are computed with at a time, some eight numbers each


class Points:
    """Normal points by number."""

    def __init__(self, d: int = 64) -> None:
        self.d = d

    def points(self, first: int, count: int) -> Tensor:
        return torch.randn(count, self.d, generator=torch.Generator().manual_seed(first))


class Allocations(TorchDispatchMode):
    """Notes which operations gave a tensor of at least so many entries in memory of its own."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.found = least, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {x.untyped_storage().data_ptr() for x in [*args, *kwargs.values()] if isinstance(x, Tensor)}
        out = func(*args, **kwargs)
        for x in out if isinstance(out, tuple) else (out,):
            if isinstance(x, Tensor) and x.numel() >= self.least and x.untyped_storage().data_ptr() not in given:
                self.found.append(str(func))
        return out


@pytest.mark.parametrize("entropies", [False, True])
def test_a_pass_allocates_its_buffers_alone(entropies: bool) -> None:
    device = torch.device("cpu")
    rows = tile_rows(M, device)
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(rows, 8, generator=generator), torch.randn(M, 8, generator=generator)
    problem = Problem(x0, x1, 0.3)
    kernel = kernel_of(problem)
    gamma = kernel.gamma(torch.zeros(M), problem.eps)
    with Workers(device) as workers, Allocations(rows * M) as allocations:
        logits = kernel.bound(gamma, problem.eps)
        swept = sweep(
            logits,
            gamma,
            problem.weights()[0],
            RowPartition(rows, M, device, SINGLE),
            workers,
            keep=KEEP,
            entropies=entropies,
        )
    assert len(swept.entries.i) >= rows, "every row keeps its largest entry at least"
    buffers = ["aten.empty.memory_format"] * (3 if entropies else 2)
    assert allocations.found == buffers


def test_a_semidiscrete_pass_holds_its_tiles_and_the_scores_of_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tiles are one array, which is given back as a whole. In float64 the data would be twice as large."""
    y = torch.randn(40_000, 64, generator=torch.Generator().manual_seed(0))
    for room, name, few in (
        (tiled_scores, "ROOM", 64 * len(y)),
        (sides, "MOMENT_ROWS", 4096),
        (alike, "HASHED", 2**16),
    ):
        monkeypatch.setattr(room, name, few)
    with Workers(torch.device("cpu")) as workers, Allocations(y.numel() // 4) as allocations:
        targets = sides.Targets(y)
        start = targets.start(Points().points(0, 1024), 5.0)
        seen = passes.point_pass(targets, Points(), 0, 200, start, 5.0, 2.0**-10, workers, 0.0)
    assert len(seen.entries.i) > 200
    assert allocations.found == ["aten.new_empty.default", "aten.empty.memory_format"], "tiles; scores of 64 points"


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that exist at a time, and the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self.most, self.sizes = 0, 0, 0, dict[int, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.add(x)
        return out

    def add(self, x: Tensor) -> None:
        """Count a tensor's memory from now until nothing refers to it."""
        storage = x.untyped_storage()
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak, self.most = max(self.peak, self.now), max(self.most, len(self.sizes))
            weakref.finalize(storage, self.drop, storage._cdata)

    def drop(self, key: int) -> None:
        """Count a tensor's memory no longer."""
        self.now -= self.sizes.pop(key)


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> int:
    """Divide the work and add sums on CPU tensors as on a GPU, in smaller steps; return the bytes of its tiles."""
    rows = 16
    for room, values in (
        (tiling, {"CPU_ROWS": (rows,) * 3, "CPU_SECTIONS": tiling.GPU_SECTIONS, "CPU_GROUPS": tiling.GPU_GROUPS}),
        (centred_points, {"CPU_SLAB": 2**14}),
        (measured_plan, {"CHUNK": 2**14}),
        (surrogate_part, {"COLUMNS_AT_ONCE": {"cpu": 2**14}, "ENTRIES_AT_ONCE": 2**14}),
        (surrogate, {"part_kind": lambda device: IntegerPart, "EVERY": {"cpu": surrogate.EVERY["cuda"]}}),
        (descent, {"SHARED": 0, "ENTRIES": 0}),  # 64 entries a row, as in blocks of 2^17 rows and more
        (ordered_sums, {"scipys": lambda: None}),
        (Workers, {"map": lambda self, work, parts: map(work, parts)}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(room, name, value)
    return rows * (4 + 4 + 1)  # logits, their exponentials, and which of them are large


@pytest.mark.parametrize(("n", "m", "d"), [(2048, 2048, 16), (2048, 4096, 16), (2048, 2048, 400)])
@pytest.mark.parametrize("rel_eps", [0.3, 0.02])
def test_a_solve_takes_the_memory_that_is_forecast(like_a_gpu: int, n: int, m: int, d: int, rel_eps: float) -> None:
    random = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(n, d, generator=random), torch.randn(m, d, generator=random) * torch.linspace(0.2, 2, d)
    with LiveBytes() as live:
        live.add(x0)
        live.add(x1)
        coupling = solve_sinkhorn(Problem(x0, x1, 1.0).at(rel_eps))
        coupling.draw(torch.rand(n, dtype=torch.float64, generator=random))
    forecast = block_bytes(n, m, d) - FIXED + like_a_gpu * m
    assert live.peak <= forecast <= 1.5 * live.peak


def test_the_next_blocks_noise_takes_the_memory_that_is_forecast() -> None:
    """On the device, where all of a chunk's numbers lie at a time and no others."""
    dim, k = 4096, 500
    rows = 2 * chunk_rows(dim)
    to_features = Features(np.zeros(dim, np.float32), np.ones((dim, k), np.float32))
    with LiveBytes() as live:
        found = to_features.of_noise_on(torch.device("cpu"), 0, 0, rows)
    forecast = ahead_bytes(rows, 0, k, 1, 8e10)
    assert live.peak <= forecast <= 1.7 * live.peak
    assert live.now == found.nbytes == 4 * k * rows


def test_a_solve_in_more_sections_takes_the_memory_that_is_forecast(
    like_a_gpu: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many as there are bands."""
    monkeypatch.setattr(tiling, "CPU_SECTIONS", 128)
    test_a_solve_takes_the_memory_that_is_forecast(like_a_gpu, 2048, 4096, 16, 0.3)


@pytest.fixture
def one_thread_of_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this thread, whose tensors are counted, do all the work, in steps that take little memory."""
    for room, values in (
        (sides, {"MOMENT_ROWS": 1024}),
        (solver, {"MOMENTS": 1024}),
        (alike, {"HASHED": 2**12}),
        (entry_buffer, {"LEAST": 2**8, "MOST": 2**14, "AT_ONCE": STEP}),
        (surrogate_part, {"AT_ONCE": STEP, "COLUMNS_AT_ONCE": {"cpu": STEP}}),
        (Workers, {"map": lambda self, work, parts: map(work, parts)}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(room, name, value)


@pytest.mark.parametrize(("n", "d", "rounds"), [(3000, 8, 2), (16_000, 64, 1)])
def test_a_semidiscrete_solve_takes_the_bytes_of_its_formula(
    one_thread_of_small_steps: None, monkeypatch: pytest.MonkeyPatch, n: int, d: int, rounds: int
) -> None:
    """docs/semidiscrete.md, "Memory": of numbers, data, points and kept entries, whichever part of a round has most."""
    y = torch.randn(n, d, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 2, d)
    held, scores, parts, plain, live = 4 * n * d + 200 * n + 64 * STEP, 64 * n, [], passes.point_pass, LiveBytes()

    def noted(*arguments: Any) -> passes.PointPass:
        assert live.now <= held, "nothing of an earlier round"
        seen = plain(*arguments)
        tiles, entries = 4 * n * (d + 1), len(seen.entries.i)
        parts.append(max(tiles + 4 * scores + 12 * entries, 28 * entries + 200 * seen.points))
        return seen

    monkeypatch.setattr(solver, "point_pass", noted)
    monkeypatch.setattr(tiled_scores, "ROOM", scores)
    with live:
        live.add(y)
        solver.solve_semidiscrete(sides.Targets(y), Points(d), 0.0, chi2=0.9, max_rounds=rounds)
    assert len(parts) == rounds
    assert live.peak <= held + max(parts) <= 1.3 * live.peak


def test_partners_take_the_memory_that_is_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data in float32 and scores of a tile: none in float64, but a slab of them."""
    monkeypatch.setattr(centred_points, "CPU_SLAB", 2**14)
    monkeypatch.setattr(alike, "HASHED", 2**12)
    n, d = 20_000, 64
    random = torch.Generator().manual_seed(0)
    y, g = torch.randn(n, d, generator=random), torch.randn(n, dtype=torch.float64, generator=random)
    x = torch.randn(256, d, dtype=torch.float64, generator=random)
    with LiveBytes() as live:
        live.add(y)
        live.add(g)
        Assignment(y, g, 0.0).partners(x, torch.zeros(256, dtype=torch.float64))
    forecast = data_bytes(n, d) - FIXED
    assert live.peak <= forecast + 256 * search.TILE * 4 <= 1.4 * live.peak


def test_a_semidiscrete_pass_leaves_no_tensor_a_tile_and_batch(
    one_thread_of_small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, tiles, batches = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)), 16, 16
    monkeypatch.setattr(tiled_scores, "ROOM", 64 * len(y))
    counts = []
    for points in (64, 64 * batches):
        targets = sides.Targets(y)
        start = targets.start(Points(4).points(0, 1024), 5.0)
        with Workers(torch.device("cpu")) as workers, LiveBytes() as live:
            passes.point_pass(targets, Points(4), 0, points, start, 5.0, 2.0**-5, workers, 0.0)
        counts.append(live.most)
    assert counts[0] > tiles
    assert counts[1] - counts[0] < tiles * (batches - 1)
