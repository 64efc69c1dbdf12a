"""The models of `flowpairs evaluate RUN` and `flowpairs sample RUN`."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from flowpairs.pipeline.config import Strict


class SamplerConfig(Strict):
    """How samples are drawn, whatever for."""

    samples: PositiveInt
    rtol: PositiveFloat = 1e-5  # of dopri5
    atol: PositiveFloat = 1e-5
    guidance: float = Field(default=1.0, ge=0)  # scale of classifier-free guidance; 1: the label's own velocity
    batch: PositiveInt = 512
    seed: int = Field(default=0, ge=0, lt=2**63)


class EvaluateConfig(SamplerConfig):
    """All of `flowpairs evaluate RUN`."""

    samples: int = Field(default=5000, ge=64)
    euler: tuple[PositiveInt, ...] = (4, 8, 16)
    sde: tuple[PositiveInt, ...] | None = None  # steps of Euler-Maruyama; None: 16 and 64 for [SF]2M, else none
    jumps: tuple[PositiveInt, ...] = (1, 2, 4)  # steps of MeanFlow models by their average velocity
    features: str = "pca"  # what the Frechet distance sees; else a network: see training/metrics/feature_network.py
    pca: PositiveInt = 64  # principal directions of the data, for features=pca
    data: str | None = None  # held-out data to hold samples to, with the columns of the pairs' own
    source: str | None = None  # and to start from, where the source is data

    @model_validator(mode="after")
    def _directions(self) -> "EvaluateConfig":
        if self.features != "pca" and "pca" in self.model_fields_set:
            raise ValueError(f"pca={self.pca}: belongs to features=pca, not to features={self.features!r}; remove one")
        return self


SolverName = Literal["dopri5", "euler", "midpoint", "heun", "sde", "jump"]


class SampleConfig(SamplerConfig):
    """All of `flowpairs sample RUN`, as its options give it."""

    solver: SolverName = "dopri5"
    steps: PositiveInt | None = None  # none of dopri5, which chooses
    labels: tuple[int, ...] = ()  # drawn among these; none: among those of the data
