"""Configuration models of `flowpairs evaluate RUN` and `flowpairs sample RUN`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from flowpairs.pipeline.config import Strict

MOST_SAMPLES = 2**24  # of a seed: their noise in the steps of an SDE is counted by step and sample

Samples = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]


class SamplerConfig(Strict):
    """The settings for drawing samples that `evaluate` and `sample` share."""

    samples: Samples
    rtol: PositiveFloat = 1e-5  # relative tolerance of dopri5
    atol: PositiveFloat = 1e-5  # absolute tolerance of dopri5, in units of x
    guidance: float = Field(default=1.0, ge=0)  # scale of classifier-free guidance; 1: the label's own velocity
    batch: PositiveInt = 512  # samples at a time; dopri5 chooses its steps for a batch
    seed: int = Field(default=0, ge=0, lt=2**63)


class EvaluateConfig(SamplerConfig):
    """The complete configuration of `flowpairs evaluate RUN`."""

    samples: int = Field(default=5000, ge=64, le=MOST_SAMPLES)
    euler: tuple[PositiveInt, ...] = (4, 8, 16)
    sde: tuple[PositiveInt, ...] | None = None  # numbers of Euler-Maruyama steps; None: 16 and 64 for [SF]2M, else none
    jumps: tuple[PositiveInt, ...] = (1, 2, 4)  # numbers of average-velocity steps, for MeanFlow models
    features: str = "pca"  # features of the Frechet distance: pca, or a network (training/metrics/feature_network.py)
    pca: PositiveInt = 64  # number of principal directions of the data, for features=pca
    data: str | None = None  # held-out data to compare samples with, with the same columns as the data of the pairs
    split: str | None = None  # split that the samples are compared with: of `data`, or the one that the pairs' data are
    source: str | None = None  # held-out data to start from, if the source is data
    workers: PositiveInt | Literal["auto"] = "auto"  # tasks that draw; auto: one per GPU, or per node without GPUs

    @model_validator(mode="after")
    def _directions(self) -> "EvaluateConfig":
        if self.features != "pca" and "pca" in self.model_fields_set:
            raise ValueError(f"pca={self.pca}: belongs to features=pca, not to features={self.features!r}; remove one")
        return self


SolverName = Literal["dopri5", "euler", "midpoint", "heun", "sde", "jump"]


class SampleConfig(SamplerConfig):
    """The complete configuration of `flowpairs sample RUN`, made from its options."""

    first: int = Field(default=0, ge=0)  # number of the first sample: runs of numbers may be drawn by many processes
    solver: SolverName = "dopri5"
    steps: PositiveInt | None = None  # number of equal steps; None for dopri5, which chooses its steps
    labels: tuple[int, ...] = ()  # labels to draw from; empty: the labels of the data

    @model_validator(mode="after")
    def _countable(self) -> "SampleConfig":
        if self.first + self.samples > MOST_SAMPLES:
            raise ValueError(f"first={self.first}: a seed has {MOST_SAMPLES:,} samples; give another seed")
        return self
