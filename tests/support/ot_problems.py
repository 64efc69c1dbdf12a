"""Problems for the tests of flowpairs.pipeline.ot, and the plain float64 answer to each."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.ot import Problem, cost_std


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


def uniforms(n: int, seed: int = 0) -> Float[Tensor, " n"]:
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Dense(NamedTuple):
    """A dense float64 plan and the costs it was made from."""

    plan: Float[Tensor, "n m"]
    cost: Float[Tensor, "n m"]


def costs(problem: Problem) -> Float[Tensor, "n m"]:
    """Every cost of a problem, by its definition."""
    x0, x1 = problem.x0.double(), problem.x1.double()
    if callable(problem.cost):
        return problem.cost(x0, x1)
    return -x0 @ x1.T if problem.cost == "dot" else (x0[:, None] - x1).square().sum(2)


def dense(problem: Problem, f: Float[Tensor, " n"], g: Float[Tensor, " m"]) -> Dense:
    """The plan that two potentials stand for, written down term by term, on the CPU."""
    cost = costs(problem)
    a, b = problem.weights()
    return Dense((a[:, None] * b * ((f[:, None] + g - cost) / problem.eps).exp()).cpu(), cost.cpu())


class Rows(NamedTuple):
    """What a loop over the rows of float64 logits finds, in base 2."""

    logits: np.ndarray
    phi: np.ndarray
    conditional: np.ndarray  # P(. | i)
    bits: np.ndarray


def by_rows(problem: Problem, g: Float[Tensor, " m"]) -> Rows:
    """The rows of the plan whose target potential is g and whose source marginal is exact, one at a time."""
    b = problem.weights()[1].cpu().numpy()
    logits = (g.cpu().numpy() - costs(problem).cpu().numpy()) / (problem.eps * np.log(2))
    phi, conditional, bits = [], [], []
    for row in logits:
        row = row[b > 0] + np.log2(b[b > 0])
        phi.append(np.logaddexp2.reduce(row))
        p = np.exp2(row - phi[-1])
        whole = np.zeros_like(b)
        whole[b > 0] = p
        conditional.append(whole)
        bits.append(-(p[p > 0] * np.log2(p[p > 0])).sum())
    return Rows(logits, np.array(phi), np.array(conditional), np.array(bits))
