"""Configuration models of `flowpairs evaluate RUN` and `flowpairs sample RUN`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from flowpairs.pipeline.config import Strict

MOST_SAMPLES = 2**24  # of a seed: their noise in the steps of an SDE is counted by step and sample

Samples = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]


class SamplerConfig(Strict):
    """The settings for drawing samples that `evaluate` and `sample` share."""

    samples: Samples
    """Samples to draw. [samples]"""
    rtol: PositiveFloat = 1e-5
    """Relative tolerance of dopri5. [1]"""
    atol: PositiveFloat = 1e-5
    """Absolute tolerance of dopri5. [units of the data]"""
    guidance: float = Field(default=1.0, ge=0)
    """Scale of classifier-free guidance; 1: the label's own velocity. [1]"""
    batch: PositiveInt = 512
    """Samples computed at once; dopri5 chooses its steps for a batch. [samples]"""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the starting noise and of the labels."""


class EvaluateConfig(SamplerConfig):
    """The complete configuration of `flowpairs evaluate RUN`."""

    samples: int = Field(default=5000, ge=64, le=MOST_SAMPLES)
    """Samples of each solver that are compared with the data. [samples]"""
    euler: tuple[PositiveInt, ...] = (4, 8, 16)
    """Numbers of Euler steps to sample with. [steps]"""
    sde: tuple[PositiveInt, ...] | None = None
    """Numbers of Euler-Maruyama steps to sample with; null: 16 and 64 for [SF]2M, else none. [steps]"""
    jumps: tuple[PositiveInt, ...] = (1, 2, 4)
    """Numbers of average-velocity steps to sample with, for MeanFlow models. [steps]"""
    features: str = "pca"
    """Features of the Fréchet distance: pca, inception, or the path of a network in TorchScript."""
    pca: PositiveInt = 64
    """Principal directions of the data, for features pca. [directions]"""
    data: str | None = None
    """Held-out data to compare samples with, with the same columns as the data of the pairs; null: the
    pairs' own data."""
    split: str | None = None
    """Split that the samples are compared with: of `data`, or the one that the pairs' data are."""
    source: str | None = None
    """Held-out data to start from, where the source is data; null: the pairs' own source."""
    workers: NonNegativeInt | Literal["auto"] = "auto"
    """Tasks that draw; auto: one per GPU, or per node without GPUs; 0: draw in the calling process, without Ray.
    [tasks]"""

    @model_validator(mode="after")
    def _directions(self) -> "EvaluateConfig":
        if self.features != "pca" and "pca" in self.model_fields_set:
            raise ValueError(f"pca={self.pca}: belongs to features=pca, not to features={self.features!r}; remove one")
        return self


SolverName = Literal["dopri5", "euler", "midpoint", "heun", "sde", "jump"]


class SampleConfig(SamplerConfig):
    """The complete configuration of `flowpairs sample RUN`, made from its options."""

    first: int = Field(default=0, ge=0)
    """Number of the first sample: runs of numbers may be drawn by many processes. [samples]"""
    solver: SolverName = "dopri5"
    """The solver of the flow's equation."""
    steps: PositiveInt | None = None
    """Number of equal steps; null for dopri5, which chooses its steps. [steps]"""
    labels: tuple[int, ...] = ()
    """Labels to draw from; empty: the labels of the data."""

    @model_validator(mode="after")
    def _countable(self) -> "SampleConfig":
        if self.first + self.samples > MOST_SAMPLES:
            raise ValueError(f"first={self.first}: a seed has {MOST_SAMPLES:,} samples; give another seed")
        return self
