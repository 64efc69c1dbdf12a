"""A solve that goes on from what it saved ends in the bits of one that was never interrupted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.ot_problems import blobs

from flowpairs.pipeline.ot import solve_for_sharpness, solve_sinkhorn
from flowpairs.pipeline.ot.coupling import EntropicCoupling

SOLVES: dict[str, Callable[..., EntropicCoupling]] = {
    "cold": lambda **options: solve_sinkhorn(blobs(700, 800, 6, rel_eps=0.02), tol=1e-6, **options),
    "stalled": lambda **options: solve_sinkhorn(blobs(300, 300, 2, rel_eps=0.003), tol=1e-9, max_passes=40, **options),
    "sharpness": lambda **options: solve_for_sharpness(blobs(500, 500, 8, rel_eps=1.0), 0.6, tol=1e-5, **options),
}


@pytest.mark.parametrize("name", list(SOLVES))
def test_resumed_solves_end_in_the_same_bits(name: str) -> None:
    saved: list[dict[str, Any]] = []
    whole = SOLVES[name](save=lambda arrays: saved.append({key: value.clone() for key, value in arrays.items()}))
    assert len(saved) >= 2
    for arrays in (saved[0], saved[len(saved) // 2], saved[-1]):
        again = SOLVES[name](resume=arrays)
        assert torch.equal(whole.g, again.g)
        assert torch.equal(whole.f, again.f)
        assert whole.report.passes == again.report.passes
