"""What a plan looks like beyond its pairs: the partners of its rows, and how its sharpness depends on epsilon."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.npy import load_npy
from flowpairs.pipeline.base.paths import AnyPath, refuse_special
from flowpairs.pipeline.blocks.division import divide
from flowpairs.pipeline.blocks.feature_store import features_directory, load_map
from flowpairs.pipeline.config import CoupleConfig, CouplingConfig
from flowpairs.pipeline.data.rows import row_set
from flowpairs.pipeline.solve.draw import build_problem, solve_block
from flowpairs.pipeline.store.format import Index, rows_directory
from flowpairs.pipeline.store.potential_files import block_file
from flowpairs.training.pairs.dataset import PairDataset
from flowpairs.training.report.summaries.pair_statistics import PairStatistics

ROWS = 256  # source rows whose partners are counted
BLOCK_NUMBERS = 2**27  # largest number of coordinates of a block's data that are read for it
ENTRIES = 2**22  # of a chunk of costs
TRIED = 1_024  # rows of either side of the problems that show sharpness against epsilon
LEAST_TRIED = 64
GRID = 1.0, 0.3, 0.1, 0.03, 0.01, 0.003
SMALLER = 10**-0.5  # the next smaller epsilon, for the price of it
COSTS = "dot", "sqeuclidean"


@dataclass(frozen=True)
class TriedEps:
    """A small block of the store's pairs, coupled at one epsilon."""

    rel_eps: float
    sharpness: float
    partners: float
    cost: float
    passes: int


@dataclass(frozen=True)
class SharpnessCurve:
    """The couplings of a small block at several epsilons.

    Attributes:
        rows: the number of its source rows.
        data: the number of its data.
        points: by decreasing epsilon; the store's own is among them, and the next smaller one.
        chosen: the position of the store's own; None where it has none.
    """

    rows: int
    data: int
    points: list[TriedEps]
    chosen: int | None


def partners_by_row(
    directory: AnyPath, index: Index, config: CoupleConfig, eps: float | None
) -> Float64[np.ndarray, " rows"] | None:
    """Compute the effective number of partners, exp H(P(. | i)), of the first source rows of a store's first block.

    It is found from the stored potential: P_ij is proportional to b_j exp((g_j - C_ij) / eps).

    Args:
        directory: the pair store.
        index: the store's index.
        config: the store's config.
        eps: the epsilon at which that block was solved; None: unknown.

    Returns:
        The numbers of partners; None for a store without such potentials, without its data, or with a cost or a block
        that is not computed here.

    Raises:
        InputError: the potential does not fit the block, or a file is damaged.
    """
    where, path = rows_directory(directory), block_file(directory, 0)
    if (
        index.method != "sinkhorn" or index.two_sided or not (isinstance(eps, float) and eps > 0)
        or config.coupling.cost not in COSTS or config.coupling.relax is not None
        or config.sampling.direction == "backward"
        or not path.is_file() or not (where / row_set.MANIFEST).is_file()
    ):  # fmt: skip
        return None
    target, features = row_set.open_target(where), load_map(features_directory(directory))
    ids = divide(config, len(target)).data_ids(0)
    if len(ids) * len(features.mean) > BLOCK_NUMBERS:
        return None
    refuse_special(path)
    try:
        g = load_npy(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a potential ({error}); couple into a new directory") from error
    if g.shape != ids.shape or g.dtype != np.float64 or not np.isfinite(g).all():
        raise InputError(f"{path}: not the potential of {len(ids)} data; couple into a new directory")
    flat = (target.rows.read(part).reshape(len(part), -1) for part in np.array_split(ids, -(-len(ids) // 4_096)))
    x1 = np.concatenate([features.of_rows(part) for part in flat]).astype(np.float64)
    pairs = PairDataset(directory, fields=["x0"])[: min(ROWS, index.shards[0].pairs)]
    x0 = features.exactly(pairs["x0"].flatten(1).numpy())
    weights = None if target.weights is None else target.weights[ids % len(target)]
    with np.errstate(divide="ignore"):
        log_b = np.zeros(len(ids)) if weights is None else np.log(weights)
    step = max(1, ENTRIES // len(ids))
    parts = [x0[first : first + step] for first in range(0, len(x0), step)]
    return np.concatenate([_partners(part, x1, g, log_b, eps, config.coupling.cost) for part in parts])


def _partners(
    x0: Float64[np.ndarray, "r k"],
    x1: Float64[np.ndarray, "m k"],
    g: Float64[np.ndarray, " m"],
    log_b: Float64[np.ndarray, " m"],
    eps: float,
    cost: str,
) -> Float64[np.ndarray, " r"]:
    """Compute exp H of the rows of a plan."""
    inner = x0 @ x1.T
    logits = (g + (inner if cost == "dot" else 2 * inner - np.square(x1).sum(1))) / eps + log_b
    logits -= logits.max(1, keepdims=True)
    mass = np.exp(logits)
    total = mass.sum(1)
    with np.errstate(invalid="ignore"):
        terms = np.where(mass > 0, mass * logits, 0.0)
    return np.exp(np.log(total) - terms.sum(1) / total)


def sharpness_curve(statistics: PairStatistics, options: CouplingConfig, chosen: float | None) -> SharpnessCurve | None:
    """Couple a small block of a store's pairs at several epsilons.

    Args:
        statistics: the pairs.
        options: how the store was coupled; its cost counts.
        chosen: the relative epsilon of the store's blocks; None where they have none.

    Returns:
        The curve; None for a cost that is not computed here, or for too few pairs.
    """
    if options.cost not in COSTS:
        return None
    _, distinct = np.unique(statistics.data_ids, return_index=True)
    x1 = np.ascontiguousarray(statistics.x1[np.sort(distinct)[:TRIED]])
    x0 = np.ascontiguousarray(statistics.x0[:TRIED])
    if min(len(x0), len(x1)) < LEAST_TRIED or _constant(x0) or _constant(x1):
        return None
    grid = set(GRID)
    if chosen is not None and chosen > 0:
        own = {chosen, chosen * SMALLER}
        grid = {eps for eps in grid if all(abs(math.log(eps / other)) > math.log(1.5) for other in own)} | own
    points = [_tried(x0, x1, options, eps) for eps in sorted(grid, reverse=True)]
    position = next((position for position, point in enumerate(points) if point.rel_eps == chosen), None)
    return SharpnessCurve(len(x0), len(x1), points, position)


def _constant(x: Float32[np.ndarray, "r k"]) -> bool:
    return bool((x == x[0]).all())


def _tried(
    x0: Float32[np.ndarray, "r k"], x1: Float32[np.ndarray, "c k"], options: CouplingConfig, rel_eps: float
) -> TriedEps:
    """Couple rows at one epsilon."""
    asked = CouplingConfig(method="sinkhorn", n=len(x0), cost=options.cost, rel_eps=rel_eps, backend="torch")
    problem = build_problem(asked, torch.from_numpy(x0), torch.from_numpy(x1))
    report = solve_block(asked, problem).report
    return TriedEps(rel_eps, report.sharpness, report.partners, report.cost_coupled, report.passes)
