"""Problems for the tests of pipeline.ot, and the plain float64 answer to each."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.ot import Problem, cost_std


def blobs(
    n: int, m: int, d: int, rel_eps: float, seed: int = 0, dtype: torch.dtype = torch.float32, offset: float = 0.0
) -> Problem:
    """Gaussian rows against stretched and clustered ones, optionally both moved far from the origin."""
    random = torch.Generator().manual_seed(seed)
    x0 = torch.randn(n, d, generator=random, dtype=torch.float64)
    x1 = torch.randn(m, d, generator=random, dtype=torch.float64) * torch.linspace(0.3, 2.0, d, dtype=torch.float64)
    x1 += 2 * torch.randint(0, 3, (m, 1), generator=random)
    eps = rel_eps * cost_std(x0, x1)
    return Problem((x0 + offset).to(dtype), (x1 - offset).to(dtype), eps)


def random_weights(k: int, zeros: int, seed: int) -> Float[Tensor, " k"]:
    """Uneven weights of which `zeros` are zero."""
    weights = torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    weights[torch.randperm(k, generator=torch.Generator().manual_seed(seed))[:zeros]] = 0
    return weights / weights.sum()


class Dense(NamedTuple):
    """A dense float64 plan and the costs it was made from."""

    plan: Float[Tensor, "n m"]
    cost: Float[Tensor, "n m"]


def dense(problem: Problem, f: Float[Tensor, " n"], g: Float[Tensor, " m"]) -> Dense:
    """The plan that two potentials stand for, written down term by term."""
    cost = -problem.x0.double() @ problem.x1.double().T
    a, b = problem.weights()
    return Dense(a[:, None] * b * ((f[:, None] + g - cost) / problem.eps).exp(), cost)
