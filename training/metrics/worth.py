"""What pairs are worth before a network is trained on them, from an estimate of the velocity field v they determine.

All figures are of held-out pairs, in the leading principal directions of the data, with squared norms summed over them:

    floor      int E|u - v(t, x_t)|^2 dt with u = x1 - x0: what remains of the loss. On pairs that it was not made from,
               the loss of an estimate is the least loss plus its own squared error: the figure errs upwards.
    curvature  int E|v(t, z_t) - (z_1 - z_0)|^2 dt along the trajectories z of v, as in training/sampling/curvature.py
    error      E|z_1 after k Euler steps - z_1|^2, from the same start

Each is computed from N pairs and from half of them: how far it moves shows the bias that more pairs would mend.
Integrals are sums over eight times by the trapezoid rule, trajectories take steps of Heun's rule; in the last eighth,
where nothing is estimated, losses and velocities are those at 7/8.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import AnyPath, as_path
from flowpairs.pipeline.base.progress import progress
from flowpairs.pipeline.blocks import noise
from flowpairs.pipeline.blocks.directions import RowSample, fit_features
from flowpairs.pipeline.blocks.features import Features
from flowpairs.pipeline.data.rows.rows import Rows
from flowpairs.pipeline.store.format import read_index
from flowpairs.training.metrics.velocity_estimate import STEPS, VelocityEstimate
from flowpairs.training.pairs.dataset import PairDataset
from flowpairs.training.pairs.online import SemidiscreteStore
from flowpairs.training.sampling.curvature import integrate_unit_interval
from flowpairs.training.sampling.ode import solve_fixed

EULER = 1, 2, 4, 8  # numbers of steps whose error is measured
HELD_OUT = 4  # one pair is held out of every so many that make an estimate
LEAST_PAIRS = 512
LEAST_SHARDS = 8  # that pairs are taken from, if there are as many
CHUNK_NUMBERS = 2**25  # of a side that are in memory at a time; the directions are those of the first chunk


@dataclass(frozen=True)
class Worth:
    """What an estimate of the velocity field says of pairs; see the head of the module.

    Attributes:
        pairs: the number of pairs that it was made from.
        floor: the estimate of the least loss, summed over coordinates.
        curvature: the curvature of the trajectories.
        errors: by number of Euler steps, the mean squared distance from the end of the trajectory.
    """

    pairs: int
    floor: float
    curvature: float
    errors: dict[int, float]


@dataclass(frozen=True)
class StoreWorth:
    """What the pairs of a store are worth.

    Attributes:
        directory: the store.
        method: how its pairs were coupled.
        directions: the number of principal directions.
        captured: the share of the data's variance that they hold.
        held_out: the number of pairs that the figures were taken on.
        half: the figures of an estimate from half of the pairs.
        whole: the figures of an estimate from all of them.
    """

    directory: str
    method: str
    directions: int
    captured: float
    held_out: int
    half: Worth
    whole: Worth


def worth_of_stores(directories: Sequence[str | AnyPath], pairs: int = 4_096, directions: int = 64) -> list[StoreWorth]:
    """Estimate what the pairs of some stores are worth, each from the same number of pairs in the same directions.

    The directions are the principal ones of the first store's data. Labels are not looked at, so the field is the one
    that an unconditional network learns. Weighted pairs take part in proportion to their weights.

    Args:
        directories: the pair stores, or semi-discrete potentials, all of data of one shape.
        pairs: the number of pairs that make an estimate, or fewer where a store has too few. Memory grows as its
            square, time as its cube.
        directions: the number of principal directions, or fewer where the data have fewer coordinates.

    Raises:
        InputError: a directory is no complete pair store, a store has too few pairs or pairs of a chain over time, the
            shapes differ, or pairs are damaged or not finite.
    """
    found = [_Pairs(directory, pairs + pairs // HELD_OUT) for directory in directories]
    for other in found[1:]:
        if other.index.shape != found[0].index.shape:
            shapes = " and ".join(str(list(each.index.shape)) for each in (found[0], other))
            raise InputError(
                f"pair store {other.name!r}: data of another shape than {found[0].name!r}, {shapes}; such figures do "
                "not compare, so ask for each by itself"
            )
    total = min(len(each) for each in found)
    held_out = total // (HELD_OUT + 1)
    features, answers = None, []
    with progress("worth", len(found) * 2 * STEPS) as show:
        done = 0
        for each in found:
            show(done, f"{each.name}: reading pairs")
            features, x0, x1 = each.read(total, features, directions)

            def fitted(name: str = each.name) -> None:
                nonlocal done
                done += 1
                show(done, name)

            half, whole = measure_worth(x0, x1, held_out, fitted)
            share = 1.0 if features.captured is None else features.captured
            answers.append(StoreWorth(each.name, each.index.method, features.dim, share, held_out, half, whole))
    return answers


def worth_table(found: Sequence[StoreWorth]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of a table, a row per store: figures from all pairs, and (from half of them).

    Args:
        found: the result of `worth_of_stores`.
    """
    headings = ["store", "method", "floor", "curvature", *(f"Euler {k}" for k in EULER)]
    rows = []
    for store in found:
        pairs = zip(_figures(store.whole), _figures(store.half), strict=True)
        rows.append([store.directory, store.method, *(f"{whole:.3g} ({half:.3g})" for whole, half in pairs)])
    return headings, rows


def _figures(worth: Worth) -> list[float]:
    return [worth.floor, worth.curvature, *worth.errors.values()]


class _Pairs:
    """Up to `count` pairs of a store, in a random order.

    Raises:
        InputError: see `worth_of_stores`.
    """

    def __init__(self, directory: str | AnyPath, count: int) -> None:
        self.name, self.path, self.index = str(directory), as_path(directory), read_index(directory)
        if self.index.times:
            raise InputError(f"pair store {self.name!r}: a chain over time; give pairs of one source and one target")
        self._numbers = None if self.index.method == "semidiscrete" and not self.index.pairs else self._drawn(count)
        self._count = count if self._numbers is None else len(self._numbers)
        if len(self) < LEAST_PAIRS:
            raise InputError(
                f"pair store {self.name!r}: {len(self)} pairs to draw from; an estimate needs {LEAST_PAIRS}, so "
                "couple more (output.pairs, --extend)"
            )

    def __len__(self) -> int:
        return self._count

    def read(
        self, count: int, features: Features | None, directions: int
    ) -> tuple[Features, Float32[Tensor, "n k"], Float32[Tensor, "n k"]]:
        """Read the first `count` of the pairs in some features; if None, in those of their own principal directions."""
        sides: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        for x0, x1 in self._chunks(count):
            if not (np.isfinite(x0).all() and np.isfinite(x1).all()):
                raise InputError(f"pair store {self.name!r}: pairs with NaN or Inf; couple again without them")
            if features is None:
                features = fit_features([RowSample(Rows.of(x1), np.arange(len(x1)))], directions)
            for side, x in zip(sides, (x0, x1), strict=True):
                side.append(features.of_rows(x))
        assert features is not None
        source, target = (torch.from_numpy(np.concatenate(side)) for side in sides)
        return features, source, target

    def _chunks(self, count: int) -> Iterator[tuple[Float32[np.ndarray, "c D"], Float32[np.ndarray, "c D"]]]:
        width = int(np.prod(self.index.shape))
        step = max(LEAST_PAIRS, CHUNK_NUMBERS // width)
        for first in range(0, count, step):
            size = min(step, count - first)
            if self._numbers is None:
                store = SemidiscreteStore(self.path, self.index)
                x0, ids = store.pairs(first, size)
                yield x0.reshape(size, width), store.data(ids).reshape(size, width)
            else:
                pairs = PairDataset(self.path, fields=["x0", "x1"])[self._numbers[first : first + size]]
                yield pairs["x0"].flatten(1).numpy(), pairs["x1"].flatten(1).numpy()

    def _drawn(self, count: int) -> Int64[np.ndarray, " n"]:
        """Draw the numbers of pairs from some shards, since a shard is read whole to check it."""
        index = self.index
        edges = np.cumsum([0, *(shard.pairs for shard in index.shards)])
        wanted = count * (4 if index.weighted else 1)  # some of which weights will leave out
        chosen: list[np.ndarray] = []
        for shard in noise.permutation(0, noise.Stream.SHARDS, len(index.shards)).tolist():
            if len(chosen) >= LEAST_SHARDS and sum(map(len, chosen)) >= wanted:
                break
            chosen.append(np.arange(edges[shard], edges[shard + 1]))
        numbers = np.concatenate(chosen)
        numbers = numbers[noise.permutation(0, noise.Stream.WINDOWS, len(numbers))[:wanted]]
        if index.weighted:
            weight = PairDataset(self.path, fields=["weight"])[numbers]["weight"].numpy()
            u = noise.uniforms(0, noise.Stream.DRAW, 0, len(numbers))
            numbers = numbers[u * weight.max() < weight]
        return numbers[:count]


def measure_worth(
    x0: Float32[Tensor, "n k"],
    x1: Float32[Tensor, "n k"],
    held_out: int,
    when_fitted: Callable[[], None] = lambda: None,
) -> tuple[Worth, Worth]:
    """Compute what some pairs are worth, estimated from half of them and from all.

    Args:
        x0: the source points of the pairs, in an order that means nothing.
        x1: the target points of the pairs.
        held_out: the number of pairs, the last ones, on which the figures are taken; the others make the estimate.
        when_fitted: called 2 STEPS times.

    Returns:
        The figures of the half and of all.
    """
    count = len(x0) - held_out
    all_of_them = VelocityEstimate(x0[:count], x1[:count], None, when_fitted)
    half = VelocityEstimate(x0[: count // 2], x1[: count // 2], all_of_them, when_fitted)
    given = x0[count:], x1[count:]
    return _measured(half, count // 2, *given), _measured(all_of_them, count, *given)


def _measured(v: VelocityEstimate, pairs: int, x0: Float32[Tensor, "n k"], x1: Float32[Tensor, "n k"]) -> Worth:
    """Compute the figures of an estimate on held-out pairs."""
    losses, velocities, z = [], [], x0
    for number, t in enumerate(torch.arange(STEPS)[:, None] / STEPS):
        losses.append((v(t, torch.lerp(x0, x1, float(t))) - (x1 - x0)).double().square().sum(1).mean())
        velocities.append(v(t, z))
        following = v(t + 1 / STEPS, z + velocities[-1] / STEPS) if number + 1 < STEPS else velocities[-1]
        z = z + (velocities[-1] + following) / (2 * STEPS)
    bends = [(velocity - (z - x0)).double().square().sum(1).mean() for velocity in velocities]
    euler = {steps: solve_fixed(v, x0, "euler", steps, every=False).end for steps in EULER}
    return Worth(
        pairs,
        integrate_unit_interval(torch.stack([*losses, losses[-1]])),
        integrate_unit_interval(torch.stack([*bends, bends[-1]])),
        {steps: float((x - z).double().square().sum(1).mean()) for steps, x in euler.items()},
    )
