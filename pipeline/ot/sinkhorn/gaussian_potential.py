"""The potential of two Gaussians with the data's moments, in closed form, from which a cold solve starts."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

DIRECTIONS = 512  # most directions treated separately: an eigenvalue problem of 3,072 takes longer than many passes


def gaussian_potential(
    rows: Float[Tensor, "n d"],
    columns: Float[Tensor, "m d"],
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    eps: float,
) -> Float[Tensor, " m"]:
    """Compute g between N(0, A) and N(0, B) at the columns; see `fit_gaussians`."""
    return fit_gaussians(rows, columns, a, b, eps)(columns)


def fit_gaussians(
    rows: Float[Tensor, "n d"],
    columns: Float[Tensor, "m d"],
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    eps: float,
) -> Callable[[Float[Tensor, "k d"]], Float[Tensor, " k"]]:
    """Find g between N(0, A) and N(0, B), as a function of points, for the dot-product cost, up to a constant.

    For A = I it is -0.5 y.((B + eps^2/4)^(1/2) + eps/2)^(-1) y (after Janati et al. 2020, arXiv 2006.02572); for other
    A the dot product is kept by x -> A^(-1/2) x, y -> A^(1/2) y, and no inverse is needed. In many dimensions A and B
    are taken as multiples of the identity outside the span of some of the columns.

    Args:
        rows: centred source points [n, d], float64.
        columns: centred target points [m, d], float64.
        a: weights of the rows [n].
        b: weights of the columns [m].
        eps: absolute epsilon.
    """
    d = rows.shape[1]
    basis, inside, slope = None, (rows, columns), torch.zeros_like(a[0])
    if d > DIRECTIONS:
        some = torch.arange(DIRECTIONS, device=b.device) * len(columns) // DIRECTIONS
        basis = torch.linalg.qr(columns[some].T).Q
        inside = rows @ basis, columns @ basis
        left = [_left_out(*pair) for pair in zip((rows, columns), inside, strict=True)]
        spread0, spread1 = a @ left[0] / (d - DIRECTIONS), b @ left[1] / (d - DIRECTIONS)
        slope = -0.5 * spread0 / ((spread0 * spread1 + eps**2 / 4).sqrt() + eps / 2)
    root = _function((inside[0] * a[:, None]).T @ inside[0], torch.sqrt)
    target = root @ ((inside[1] * b[:, None]).T @ inside[1]) @ root
    inner = _function(target, lambda w: 1 / ((w + eps**2 / 4).sqrt() + eps / 2))

    def potential(at: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
        within = at if basis is None else at @ basis
        half = within @ root
        curved = -0.5 * ((half @ inner) * half).sum(1)
        return curved if basis is None else curved + slope * _left_out(at, within)

    return potential


def _left_out(points: Float[Tensor, "k d"], inside: Float[Tensor, "k s"]) -> Float[Tensor, " k"]:
    """Compute the squared lengths that a projection removes from points."""
    return (points.square().sum(1) - inside.square().sum(1)).clamp(min=0)


def _function(matrix: Float[Tensor, "d d"], function: Callable[[Tensor], Tensor]) -> Float[Tensor, "d d"]:
    """Apply a function to a positive semidefinite matrix, by its eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * function(values.clamp(min=0))) @ vectors.T
