"""The potential of two Gaussians with the data's moments, in closed form, from which a cold solve starts."""

from collections.abc import Callable
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from flowpairs.pipeline.ot.tiles.centred_points import CentredPoints, as_centred

DIRECTIONS = 512  # most directions treated separately: an eigenvalue problem of 3,072 takes longer than many passes


def gaussian_potential(
    rows: Float[Tensor, "n d"] | CentredPoints,
    columns: Float[Tensor, "m d"] | CentredPoints,
    a: Float[Tensor, " n"],
    b: Float[Tensor, " m"],
    eps: float,
) -> Float[Tensor, " m"]:
    """Compute g between N(0, A) and N(0, B) at the columns; see `fit_gaussians`."""
    return as_centred(columns).each(fit_gaussians(rows, columns, a, b, eps))


def fit_gaussians(
    rows: Float[Tensor, "n d"] | CentredPoints,
    columns: Float[Tensor, "m d"] | CentredPoints,
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
    source, target = as_centred(rows), as_centred(columns)
    basis, slope = None, torch.zeros_like(a[0])
    if source.d > DIRECTIONS:
        some = torch.arange(DIRECTIONS, device=b.device) * len(target) // DIRECTIONS
        basis = torch.linalg.qr(target[some].T).Q

    (covariance0, left0), (covariance1, left1) = (_moments(*side, basis) for side in ((source, a), (target, b)))
    if basis is not None:
        spread0, spread1 = left0 / (source.d - DIRECTIONS), left1 / (source.d - DIRECTIONS)
        slope = -0.5 * spread0 / ((spread0 * spread1 + eps**2 / 4).sqrt() + eps / 2)
    root = _function(covariance0, torch.sqrt)
    inner = _function(root @ covariance1 @ root, lambda w: 1 / ((w + eps**2 / 4).sqrt() + eps / 2))

    def potential(at: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
        within = at if basis is None else at @ basis
        half = within @ root
        curved = -0.5 * ((half @ inner) * half).sum(1)
        return curved if basis is None else curved + slope * _left_out(at, within)

    return potential


def _moments(
    points: CentredPoints, weights: Float[Tensor, " k"], basis: Float[Tensor, "d s"] | None
) -> tuple[Float[Tensor, "s s"], Float[Tensor, ""]]:
    """Compute the covariance in the span of a basis, and the variance outside; without one, all and none."""
    if basis is None:
        return points.gram(weights), torch.zeros_like(weights[0])
    products, left = [], []
    for rows, own in points.slabs():
        within = own @ basis
        products.append((within * weights[rows, None]).T @ within)
        left.append(_left_out(own, within))
    return reduce(torch.add, products), weights @ torch.cat(left)


def _left_out(points: Float[Tensor, "k d"], inside: Float[Tensor, "k s"]) -> Float[Tensor, " k"]:
    """Compute the squared lengths that a projection removes from points."""
    return (points.square().sum(1) - inside.square().sum(1)).clamp(min=0)


def _function(matrix: Float[Tensor, "d d"], function: Callable[[Tensor], Tensor]) -> Float[Tensor, "d d"]:
    """Apply a function to a positive semidefinite matrix, by its eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * function(values.clamp(min=0))) @ vectors.T
