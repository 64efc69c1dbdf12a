"""Objectives of a training step: the velocity of a path, the velocity and the score of a bridge, the average velocity.

An objective turns a batch of pairs into squared errors and weights, one of each per sample. What is random in a step it
draws beforehand, on the host (training/objectives/randomness.py); the step itself copies from pinned memory alone and
never waits for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training import models
from flowpairs.training.config import (
    LossConfig,
    MeanFlowConfig,
    OwnConfig,
    OwnObjectiveConfig,
    TimesConfig,
    TrainConfig,
)
from flowpairs.training.models.own import try_out
from flowpairs.training.objectives import probability_paths
from flowpairs.training.objectives.meanflow import average_velocity
from flowpairs.training.objectives.randomness import (
    Purpose,
    device_normals,
    normals,
    sent,
    step_uniforms,
    times,
)
from flowpairs.training.pairs.batch import Batch, BatchRows

ADAPTIVE_FLOOR = 1e-3  # added to a sample's error, so that its adaptive weight stays finite

Uniforms = Callable[[Purpose], Tensor]


@dataclass(frozen=True)
class Sample:
    """A batch of points on the paths of its pairs.

    Attributes:
        t: the time of each sample, in [0, 1].
        until: the end of each interval; None for objectives without intervals.
        x: the points on the paths at t.
        velocity: the velocity of each path at t.
        z: the standard noise in x; None if the path has none.
        std: the standard deviation of the path at t, which scales z.
        label: the label of each sample; `Objective.num_classes` if it was dropped.
        spanned: the numbers of the samples whose interval has positive length; None for objectives without intervals.
    """

    t: Float[Tensor, " b"]
    until: Float[Tensor, " b"] | None
    x: Float[Tensor, "b *shape"]
    velocity: Float[Tensor, "b *shape"]
    z: Float[Tensor, "b *shape"] | None
    std: Float[Tensor, "b *ones"]
    label: Int64[Tensor, " b"] | None
    spanned: Int64[Tensor, " k"] | None = None


@dataclass(frozen=True)
class Objective:
    """Flow matching: |v(t, x_t) - d x_t / dt|^2, whose minimiser v is the marginal velocity.

    A loss of your own extends this class (`objective.kind: module:class`) and overrides what it changes: `errors`, the
    error of each sample at its point on the path; `weights`, by which the errors count; or `instants`, the times. What
    these return has to be a function of what they are given, so that a run resumes to the same weights. A dataclass
    adds arguments of its own, which `objective.args` gives.

    Args:
        seed: the seed of the run.
        path: the path between x0 and x1 of a pair.
        times: the distribution of the times.
        loss: the weights of the samples' errors.
        label_dropout: the fraction of the samples whose label becomes `num_classes`.
        num_classes: the number of classes of the pairs.
    """

    seed: int
    path: probability_paths.Path = field(default_factory=probability_paths.Straight)
    times: TimesConfig = field(default_factory=TimesConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    label_dropout: float = 0.0
    num_classes: int = 0

    def draw(self, step: int, rows: BatchRows, shape: tuple[int, ...], *, on_device: bool = False) -> dict[str, Tensor]:
        """Draw the random numbers of a step, a function of the seed, the step and the rows of the global batch.

        Args:
            step: the number of the step in the run, from 0.
            rows: the rows of the global batch.
            shape: the shape of one datum.
            on_device: whether the noise of a path is made on the device that trains, to the same bits; `z_rows` then
                says which.

        Returns:
            Tensors on the host, of one row per pair: `t`; `until` if there are intervals, `dropped` if labels may be
            hidden, and `z` or `z_rows` if the path is noisy.
        """
        uniforms = partial(step_uniforms, self.seed, step, rows)
        drawn = self.instants(uniforms)
        if self.label_dropout:
            drawn["dropped"] = uniforms(Purpose.LABELS) < self.label_dropout
        if self.path.noisy and on_device:
            drawn["z_rows"] = torch.arange(rows.start, rows.stop) + step * rows.total
        elif self.path.noisy:
            drawn["z"] = normals(self.seed, step, rows, shape)
        return drawn

    def __call__(
        self, model: nn.Module, bare: nn.Module, batch: Batch
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Compute each sample's squared error per coordinate and its weight; the loss is the mean of their product.

        Args:
            model: the network that receives the gradients; it may be wrapped for data parallelism.
            bare: the same network without the wrapper.
            batch: this worker's pairs, with the numbers of `draw`.
        """
        device, shape = batch.x1.device, batch.x1.shape[1:]
        here = {name: sent(numbers, device) for name, numbers in batch.drawn.items()}
        t, z, label, until = here["t"], here.get("z"), batch.label, here.get("until")
        if "z_rows" in here:
            z = device_normals(self.seed, here["z_rows"], shape)
        if label is not None and self.label_dropout:
            label = label.masked_fill(here["dropped"], self.num_classes)
        sample = self.on_path(batch, t, until, z, label)
        if until is not None:  # counted on the host, which need not ask the device how many there are
            spanned = (batch.drawn["until"] > batch.drawn["t"]).nonzero()[:, 0]
            sample = replace(sample, spanned=sent(spanned, device))
        errors = self.errors(model, bare, sample)
        return errors, self.weights(t, errors.detach(), batch.weight)

    def on_path(self, batch: Batch, t: Tensor, until: Tensor | None, z: Tensor | None, label: Tensor | None) -> Sample:
        """Move the batch to its paths at t in [0, 1]; t is relative to the span of pairs that have one.

        A span of length L follows the path at 1/L of the speed, and a bridge with L times the variance, so that its
        diffusion in time is sigma for any L.
        """
        if batch.span is None:
            pair = (batch.x0, batch.x1, z)
            std = self.path.std(probability_paths.per_sample(t, batch.x1))
            return Sample(t, until, self.path.point(t, *pair), self.path.velocity(t, *pair), z, std, label)
        start, length = batch.span[:, 0], batch.span[:, 1] - batch.span[:, 0]
        pace = probability_paths.per_sample(length, batch.x1)
        wide = pace.sqrt() if isinstance(self.path, probability_paths.Bridge) else torch.ones_like(pace)
        pair = (batch.x0, batch.x1, None if z is None else wide * z)
        x, velocity = self.path.point(t, *pair), self.path.velocity(t, *pair) / pace
        return Sample(
            start + t * length, until, x, velocity, z, wide * self.path.std(probability_paths.per_sample(t, x)), label
        )

    def instants(self, uniforms: Uniforms) -> dict[str, Tensor]:
        """Draw the samples' times, `t`, and for objectives with intervals their ends, `until`."""
        return {"t": times(self.times, uniforms(Purpose.TIMES), self.path.margin)}

    def errors(self, model: nn.Module, bare: nn.Module, sample: Sample) -> Float[Tensor, " b"]:
        """Compute each sample's squared error per coordinate."""
        return squared(model(sample.t, sample.x, sample.label).float() - sample.velocity)

    def weights(
        self, t: Float[Tensor, " b"], errors: Float[Tensor, " b"], of_pairs: Float[Tensor, " b"] | None
    ) -> Float[Tensor, " b"]:
        """Multiply the weights by time, the adaptive weights by error, and the weights of the pairs."""
        weights = torch.ones_like(t) if of_pairs is None else of_pairs
        if self.loss.time == "bridge":
            weights = weights * 4 * t * (1 - t)
        if self.loss.adaptive:
            weights = weights / (errors + ADAPTIVE_FLOOR) ** self.loss.adaptive
        return weights


class BridgeMatching(Objective):
    """[SF]2M (arXiv 2307.03672): the velocity, and the bridge's score -z / std_t learned by a second network.

    The second network returns r = sigma^2/2 score, the difference between the SDE's drift and the velocity. Multiplied
    by lambda = 2 std_t / sigma^2, its target is -z, which has the same size at all times.
    """

    def errors(self, model: nn.Module, bare: nn.Module, sample: Sample) -> Float[Tensor, " b"]:
        """Add the squared errors of both networks."""
        assert sample.z is not None
        velocity, excess = model(sample.t, sample.x, sample.label)
        scale = 2 * sample.std / self.path.sigma**2
        return squared(velocity.float() - sample.velocity) + squared(scale * excess.float() + sample.z)


@dataclass(frozen=True)
class MeanFlow(Objective):
    """The average velocity of the intervals [t, until]; see training/objectives/meanflow.py.

    Args:
        spans: the fraction of the samples whose interval has positive length; the others are plain flow matching.
    """

    spans: float = 0.25

    def instants(self, uniforms: Uniforms) -> dict[str, Tensor]:
        """Draw two ordered times per sample, or the same time twice for an empty interval."""
        one = super().instants(uniforms)["t"]
        two = times(self.times, uniforms(Purpose.UNTIL), self.path.margin)
        spanned = uniforms(Purpose.SPANS) < self.spans
        ordered = {"t": torch.minimum(one, two), "until": torch.maximum(one, two)}
        return {name: torch.where(spanned, time, one) for name, time in ordered.items()}

    def errors(self, model: nn.Module, bare: nn.Module, sample: Sample) -> Float[Tensor, " b"]:
        """Compute each sample's squared error against the right side of the identity."""
        assert sample.until is not None
        assert sample.spanned is not None
        where = (sample.t, sample.until, sample.x, sample.velocity, sample.label)
        target = average_velocity(bare, *where, sample.spanned)
        return squared(model(sample.t, sample.x, sample.label, sample.until).float() - target)


class VelocityAndScore(nn.Module):
    """Two networks of one architecture called as one: the velocity, and sigma^2/2 times the score."""

    def __init__(self, velocity: nn.Module, score: nn.Module) -> None:
        super().__init__()
        self.velocity, self.score = velocity, score

    def forward(
        self, t: Float[Tensor, " b"], x: Float[Tensor, "b *shape"], label: Int64[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
        """Compute both at (t, x)."""
        return self.velocity(t, x, label), self.score(t, x, label)


def build_objective(config: TrainConfig, num_classes: int) -> Objective:
    """Build the objective that the config names, for pairs with the given number of classes."""
    train = config.train
    common = (
        train.seed,
        probability_paths.build_path(config.path),
        config.times,
        config.loss,
        train.label_dropout,
        num_classes,
    )
    if isinstance(config.objective, MeanFlowConfig):
        return MeanFlow(*common, spans=config.objective.spans)
    if isinstance(config.objective, OwnObjectiveConfig):
        return _own_objective(config.objective, common)
    return (BridgeMatching if config.objective.kind == "sf2m" else Objective)(*common)


def _own_objective(config: OwnObjectiveConfig, common: tuple[Any, ...]) -> Objective:
    made, key = config.imported(), f"objective.objective={config.objective!r}"
    if not (isinstance(made, type) and issubclass(made, Objective)):
        raise InputError(f"{key}: does not extend flowpairs.training.objectives.Objective; name a class that does")
    try:
        return made(*common, **config.args)
    except Exception as error:  # a user's class may raise anything
        raise InputError(
            f"{key}: failed with {config.args}: {type(error).__name__}: {error}; it is made with the arguments of "
            "Objective and the keys of objective.args"
        ) from error


def build_network(config: TrainConfig, shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build the untrained network of the config's objective, initialised from the run's seed alone."""
    net = partial(models.build_model, config.model, shape, num_classes, **form(config))
    seed = config.train.seed
    return VelocityAndScore(net(seed=seed), net(seed=seed + 1)) if config.objective.kind == "sf2m" else net(seed=seed)


def try_own_classes(config: TrainConfig, shape: tuple[int, ...], num_classes: int) -> None:
    """Make the network and the objective of the user's own that the config names, and call them on two rows.

    Raises:
        InputError: one cannot be imported or made, or does not answer with a velocity or with an error a row.
    """
    if not (isinstance(config.model, OwnConfig) or isinstance(config.objective, OwnObjectiveConfig)):
        return
    given, objective = form(config), build_objective(config, num_classes)
    network = models.build_model(config.model, shape, num_classes, config.train.seed, **given)
    if isinstance(config.model, OwnConfig):
        try_out(network, config.model, shape, num_classes + given["null"], given["spans"])
    if isinstance(config.objective, OwnObjectiveConfig):
        _try_objective(objective, config.objective.objective, network, shape, config.model.conditional)


def _try_objective(objective: Objective, name: str, network: nn.Module, shape: tuple[int, ...], labels: bool) -> None:
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    one = x.new_ones(2, *[1] * len(shape))
    label = torch.zeros(2, dtype=torch.int64) if labels else None
    sample = Sample(torch.tensor([0.25, 0.75]), None, x, -x, torch.ones_like(x), one, label)
    try:
        with torch.no_grad():
            errors = objective.errors(network, network, sample)
    except Exception as error:  # as above
        raise InputError(
            f"objective.objective={name!r}: its `errors` failed on two rows: {type(error).__name__}: {error}; see "
            "flowpairs.training.objectives.Objective"
        ) from error
    if not (isinstance(errors, Tensor) and errors.shape == (2,) and errors.is_floating_point()):
        what = list(errors.shape) if isinstance(errors, Tensor) else type(errors).__name__
        raise InputError(f"objective.objective={name!r}: `errors` returns {what} for 2 rows; return one number a row")


def form(config: TrainConfig) -> dict[str, bool]:
    """Return the arguments `spans` and `null` of `models.build_model` that the config requires."""
    return {"spans": config.objective.kind == "meanflow", "null": config.train.label_dropout > 0}


def squared(error: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
    """Compute the mean square over the coordinates of each sample."""
    return error.square().flatten(1).mean(1)
