"""Semi-discrete problems, and their answers by definition."""

import numpy as np
import torch
from torch import Tensor

from flowpairs.pipeline.ot.semidiscrete.solver import Semidiscrete


class Gaussian:
    """Standard Gaussian points by number, each from a generator of its own block of 512."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        self.dim, self.seed = dim, seed

    def points(self, first: int, count: int) -> Tensor:
        blocks = range(first // 512, -(-(first + count) // 512))
        rows = [np.random.default_rng([self.seed, k]).standard_normal((512, self.dim), np.float32) for k in blocks]
        return torch.from_numpy(np.concatenate(rows)[first - 512 * blocks[0] :][:count])


def data(n: int, dim: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    y = torch.randn(n, dim, generator=random) * torch.linspace(0.5, 2, dim)
    return y + torch.randint(0, 3, (n, 1), generator=random)


def masses(y: Tensor, g: Tensor, eps: float, points: Tensor, b: Tensor | None = None) -> Tensor:
    """Mean probabilities of the data, by their definition."""
    scores = g + points.double() @ y.double().T
    if eps == 0:
        return torch.bincount(scores.argmax(1), minlength=len(y)) / len(points)
    return (scores / eps + (0 if b is None else b.log())).softmax(1).mean(0)


def fresh_chi2(y: Tensor, solved: Semidiscrete, b: Tensor | None = None) -> float:
    """The chi-square on many points of another seed; what they add by chance is N / points."""
    target = torch.full((len(y),), 1 / len(y), dtype=torch.float64) if b is None else b
    points = Gaussian(y.shape[1], seed=99).points(0, 400 * len(y))
    p = masses(y, solved.g, solved.report.eps, points, b)
    return ((p - target).square() / target).sum().item() - (1 / 400 if solved.report.eps == 0 else 0)


def partners_by_hand(y: Tensor, g: Tensor, eps: float, x: Tensor, u: Tensor, b: Tensor | None = None) -> list[int]:
    """The partner of each point, one point after the other."""
    found = []
    for point, aim in zip(x, u, strict=True):
        scores = g + y.double() @ point
        if eps == 0:
            found.append(int(scores.argmax()))
            continue
        mass = ((scores - scores.max()) / eps).exp() * (1 if b is None else b)
        found.append(int((mass.cumsum(0) <= aim * mass.sum()).sum()))
    return found
