"""What a pass allocates: nothing as large as a tile but a thread's buffers, or what tiles find would scatter memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.semidiscrete import point_pass as passes
from flowpairs.pipeline.ot.semidiscrete import targets as sides
from flowpairs.pipeline.ot.sinkhorn.sweep import sweep
from flowpairs.pipeline.ot.tiles import equal_rows as alike
from flowpairs.pipeline.ot.tiles.kernel import kernel_of
from flowpairs.pipeline.ot.tiles.partition import SINGLE, RowPartition
from flowpairs.pipeline.ot.tiles.tiling import Workers, tile_rows

M, KEEP = 16_384, 64


class Points:
    """Normal points by number."""

    def points(self, first: int, count: int) -> Tensor:
        return torch.randn(count, 64, generator=torch.Generator().manual_seed(first))


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
    buffers = ["aten.new_empty.default"] * (2 if entropies else 1) + ["aten.empty.memory_format"]
    assert sorted(allocations.found) == sorted(buffers)


def test_a_semidiscrete_pass_holds_its_tiles_and_the_scores_of_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 the data would be twice what tiles take."""
    y = torch.randn(40_000, 64, generator=torch.Generator().manual_seed(0))
    for room, name, few in ((passes, "ROOM", 64 * len(y)), (sides, "MOMENT_ROWS", 4096), (alike, "HASHED", 2**16)):
        monkeypatch.setattr(room, name, few)
    with Workers(torch.device("cpu")) as workers, Allocations(y.numel() // 4) as allocations:
        targets = sides.Targets(y)
        start = targets.start(Points().points(0, 1024), 5.0)
        seen = passes.point_pass(targets, Points(), 0, 200, start, 5.0, 2.0**-10, workers, 0.0)
    assert len(seen.entries.i) > 200
    assert allocations.found == ["aten.empty.memory_format"], "the scores of 64 points"
