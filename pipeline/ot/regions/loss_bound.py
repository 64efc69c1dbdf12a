"""A bound on what regions cost: how much dearer their plan is than that of the whole problem at the same eps.

Let P be the regions' plan, W the whole problem's, K the Kullback-Leibler divergence from the product of the marginals,
and F_e(Q) = <Q, C> + e K(Q), which W minimises at e = eps. At any e < eps and for any potential g of the target rows,
weak duality says F_e(W) >= D_e(g) = <b, g> + mean_i S_e(i), with S_e(i) the soft-min over j of C_ij - g_j at e. Since
(1 - e / eps) <W, C> = F_e(W) - (e / eps) F_eps(W) and F_eps(W) <= F_eps(P),

    <P, C> - <W, C> <= (F_e(P) - D_e(g)) / (1 - e / eps).

g is made of the regions' potentials, each moved by an offset o_k. Then the gap is, exactly,

    F_e(P) - D_e(g) = sum_k B_k (F_eps - F_e within region k, less (eps - e) K_k) + mean_i -e log p_i(own region),

where B_k is the region's share, the first sum takes no more than a pass within each region, and p_i(k), a softmax of
(o_k - S_e(i, k)) / e + log B_k over the regions, is where g would send row i. So the offsets are those of a
multinomial logistic regression, fitted on some rows of each region. Its loss is measured on others, which keeps the
bound free of bias, or on all rows where these are few. Of some e the one with the least bound on the first rows is
taken. That <P, C> is the cost of a plan with the right marginals holds up to the tolerance of the solves.
"""

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from flowpairs.pipeline.ot.coupling import EntropicCoupling
from flowpairs.pipeline.ot.problem import Problem
from flowpairs.pipeline.ot.regions.cutting import Region
from flowpairs.pipeline.ot.sinkhorn.solver import softmin

SHARES = 0.05, 0.15, 0.35  # e / eps; on all that was tried, the best lay between .02 and .4
SAMPLED = 1024  # source rows, over all regions, on which offsets are fitted, and as many on which they are measured
FEWEST = 2  # of these in a region
ENOUGH = 1e-6  # of the gradient of the fit


@dataclass(frozen=True)
class LossBound:
    """A bound on <P, C> - <W, C>, and what proves it.

    Attributes:
        value: the bound, in units of the cost.
        error: standard error of its estimate; 0 where all source rows were measured.
        eps: e, at which the gap was taken.
        g: potential of all target rows.
    """

    value: float
    error: float
    eps: float
    g: Float64[Tensor, " m"]


class _Mean(NamedTuple):
    """A mean over all source rows, estimated from some, and its standard error."""

    value: float
    error: float


class _Sample(NamedTuple):
    """Some rows of every region, by number among the region's own, and how many rows each region has."""

    rows: list[Tensor]
    sizes: list[int]


class _Fitted(NamedTuple):
    """A bound as the rows show it on which its offsets were fitted."""

    value: float
    share: float
    offsets: Float64[Tensor, " regions"]
    within: float


def bound_loss(problem: Problem, regions: list[Region], coupled: list[EntropicCoupling]) -> LossBound:
    """Bound <P, C> - <W, C> for the plan P of coupled regions and the plan W of the whole problem.

    Args:
        problem: the whole problem, unweighted.
        regions: its regions.
        coupled: their couplings at the problem's eps, in the same order.
    """
    if len(regions) == 1:
        return LossBound(0.0, 0.0, 0.0, coupled[0].g.double())
    first, second = _samples(regions)
    best = min((_fitted(problem, regions, coupled, first, share) for share in SHARES), key=lambda fitted: fitted.value)
    eps = best.share * problem.eps
    costs = _region_costs(problem, regions, coupled, second or first, eps)
    between = _between(costs / eps, best.offsets, second or first)
    value = (best.within + eps * between.value) / (1 - best.share)
    g = torch.empty(problem.m, dtype=torch.float64, device=problem.x1.device)
    for region, part, offset in zip(regions, coupled, best.offsets, strict=True):
        g[region.columns] = part.g + eps * offset
    return LossBound(value, eps * between.error / (1 - best.share), eps, g)


def _fitted(
    problem: Problem, regions: list[Region], coupled: list[EntropicCoupling], sample: _Sample, share: float
) -> _Fitted:
    """Fit the offsets of the bound at one e."""
    eps = share * problem.eps
    costs = _region_costs(problem, regions, coupled, sample, eps) / eps
    offsets, within = _fit(costs, sample), _within(problem, regions, coupled, eps)
    return _Fitted((within + eps * _between(costs, offsets, sample).value) / (1 - share), share, offsets, within)


def _samples(regions: list[Region]) -> tuple[_Sample, _Sample | None]:
    """Choose rows to fit on and others to measure on; few rows serve, all of them, for both."""
    sizes = [len(region.rows) for region in regions]
    each = max(FEWEST, SAMPLED // len(regions))
    if min(sizes) < 2 * each:
        return _Sample([torch.arange(size) for size in sizes], sizes), None
    random = torch.Generator().manual_seed(0)
    chosen = [torch.randperm(size, generator=random)[: 2 * each] for size in sizes]
    fitted, measured = zip(*(rows.split(each) for rows in chosen), strict=True)
    return _Sample(list(fitted), sizes), _Sample(list(measured), sizes)


def _region_costs(
    problem: Problem, regions: list[Region], coupled: list[EntropicCoupling], sample: _Sample, eps: float
) -> Float64[Tensor, "s regions"]:
    """Compute S_e(i, k), the soft-min of C_ij - g_j over each region, for sampled rows of all regions in turn."""
    device = problem.x0.device
    rows = torch.cat([region.rows[part.to(device)] for region, part in zip(regions, sample.rows, strict=True)])
    return torch.stack([_softmin(problem.x0[rows], part, eps) for part in coupled], 1)


def _softmin(x0: Float[Tensor, "s d"], coupling: EntropicCoupling, eps: float) -> Float64[Tensor, " s"]:
    """Compute the soft-min of a region at another eps, from its own potential."""
    x1 = coupling.problem.x1
    return softmin(Problem(x0.to(x1.dtype), x1, eps, cost=coupling.problem.cost), coupling.g).double()


def _within(problem: Problem, regions: list[Region], coupled: list[EntropicCoupling], eps: float) -> float:
    """Compute the part of the gap that lies within regions."""
    total = 0.0
    for region, part in zip(regions, coupled, strict=True):
        apart = (part.f - _softmin(part.problem.x0, part, eps)).mean().item()
        divergence = math.log(len(region.columns)) - math.log(part.report.partners)
        total += len(region.rows) / problem.n * (apart - (problem.eps - eps) * divergence)
    return total


def _log_p(
    costs: Float64[Tensor, "s regions"], offsets: Float64[Tensor, " regions"], sample: _Sample
) -> tuple[Float64[Tensor, "s regions"], Float64[Tensor, " s"]]:
    """Return log p of the sampled rows over all regions, and minus that of their own."""
    shares = torch.tensor(sample.sizes, dtype=torch.float64, device=costs.device) / sum(sample.sizes)
    log_p = (offsets - costs + shares.log()).log_softmax(1)
    own = [column[part] for column, part in zip(log_p.T, _parts(sample), strict=True)]
    return log_p, -torch.cat(own)


def _parts(sample: _Sample) -> list[slice]:
    """List where the sampled rows of each region are among those of all."""
    return [slice(low, high) for low, high in pairwise(accumulate((len(rows) for rows in sample.rows), initial=0))]


def _between(costs: Float64[Tensor, "s regions"], offsets: Float64[Tensor, " regions"], sample: _Sample) -> _Mean:
    """Estimate the mean of -log p(own region) over all rows from the sampled ones of each region."""
    losses, n = _log_p(costs, offsets, sample)[1], sum(sample.sizes)
    mean = variance = 0.0
    for part, size in zip(_parts(sample), sample.sizes, strict=True):
        count = part.stop - part.start
        mean += size / n * losses[part].mean().item()
        variance += (size / n) ** 2 * (1 - count / size) * losses[part].var().item() / count
    return _Mean(mean, math.sqrt(variance))


def _fit(costs: Float64[Tensor, "s regions"], sample: _Sample) -> Float64[Tensor, " regions"]:
    """Find the offsets, in units of e, of the least mean of -log p(own region), which is convex in them."""
    from scipy.optimize import minimize  # costs a third of torch's import: not in every actor

    sizes = torch.tensor(sample.sizes, dtype=torch.float64, device=costs.device)
    counts = torch.tensor([len(rows) for rows in sample.rows], device=costs.device)
    shares = sizes / sizes.sum()
    weights = (shares / counts).repeat_interleave(counts)  # with which a sampled row stands for all of its region

    def loss(offsets: Float64[np.ndarray, " regions"]) -> tuple[float, Float64[np.ndarray, " regions"]]:
        log_p, losses = _log_p(costs, torch.from_numpy(offsets).to(costs.device), sample)
        return (weights @ losses).item(), (weights @ log_p.exp() - shares).cpu().numpy()

    start = np.zeros(costs.shape[1])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"gtol": ENOUGH, "maxiter": 200})
    return torch.from_numpy(found.x).to(costs.device)
