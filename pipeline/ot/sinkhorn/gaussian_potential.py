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
    at: Float[Tensor, "k d"] | None = None,
) -> Float[Tensor, " k"]:
    """Compute g between N(0, A) and N(0, B) at the columns, for the dot-product cost, up to a constant.

    For A = I it is -0.5 y.((B + eps^2/4)^(1/2) + eps/2)^(-1) y (after Janati et al. 2020, arXiv 2006.02572); for other
    A the dot product is kept by x -> A^(-1/2) x, y -> A^(1/2) y, and no inverse is needed. In many dimensions A and B
    are taken as multiples of the identity outside the span of some of the columns.

    Args:
        rows: centred source points [n, d], float64.
        columns: centred target points [m, d], float64.
        a: weights of the rows [n].
        b: weights of the columns [m].
        eps: absolute epsilon.
        at: points at which to evaluate it; None: the columns.
    """
    at = columns if at is None else at
    d = rows.shape[1]
    outside = at.new_zeros(len(at))
    if d > DIRECTIONS:
        some = torch.arange(DIRECTIONS, device=b.device) * len(columns) // DIRECTIONS
        basis = torch.linalg.qr(columns[some].T).Q
        inside = [rows @ basis, columns @ basis, at @ basis]
        left = [_left_out(*pair) for pair in zip((rows, columns, at), inside, strict=True)]
        spread0, spread1 = a @ left[0] / (d - DIRECTIONS), b @ left[1] / (d - DIRECTIONS)
        outside = -0.5 * spread0 * left[2] / ((spread0 * spread1 + eps**2 / 4).sqrt() + eps / 2)
        rows, columns, at = inside
    root = _function((rows * a[:, None]).T @ rows, torch.sqrt)
    target = root @ ((columns * b[:, None]).T @ columns) @ root
    inner = _function(target, lambda w: 1 / ((w + eps**2 / 4).sqrt() + eps / 2))
    half = at @ root
    return outside - 0.5 * ((half @ inner) * half).sum(1)


def _left_out(points: Float[Tensor, "k d"], inside: Float[Tensor, "k s"]) -> Float[Tensor, " k"]:
    """Compute the squared lengths that a projection removes from points."""
    return (points.square().sum(1) - inside.square().sum(1)).clamp(min=0)


def _function(matrix: Float[Tensor, "d d"], function: Callable[[Tensor], Tensor]) -> Float[Tensor, "d d"]:
    """Apply a function to a positive semidefinite matrix, by its eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * function(values.clamp(min=0))) @ vectors.T
