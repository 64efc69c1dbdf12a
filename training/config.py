"""The models of `flowpairs train CONFIG` and of `flowpairs evaluate RUN`."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.config import Strict


class PairsConfig(Strict):
    """The pair store to regress on."""

    dir: str
    fingerprint: str | None = None  # hash that the shards must have; the resolved config holds that of the ones read


class MLPConfig(Strict):
    """Residual MLP on the flattened data: vectors, and images small enough to be treated as such."""

    kind: Literal["mlp"]
    width: PositiveInt = 512
    depth: PositiveInt = 4  # residual blocks
    conditional: bool = False  # feed the labels to the model


class UNetConfig(Strict):
    """diffusers' UNet2DModel for images."""

    kind: Literal["unet"]
    channels: tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...] = Field(default=(32, 64, 64), min_length=1)
    layers: PositiveInt = 2  # ResNet blocks at each resolution; there is one resolution per entry of `channels`
    conditional: bool = False


class DiTConfig(Strict):
    """Diffusion transformer on image patches."""

    kind: Literal["dit"]
    patch: PositiveInt = 2
    width: Annotated[int, Field(ge=8, multiple_of=4)] = 192
    depth: PositiveInt = 6
    heads: PositiveInt = 3
    conditional: bool = False


ModelConfig = MLPConfig | UNetConfig | DiTConfig


class OptimisationConfig(Strict):
    """Steps of AdamW on the regression loss."""

    steps: PositiveInt
    batch: PositiveInt = 256  # pairs a step, over all workers
    lr: PositiveFloat = 1e-3
    warmup: NonNegativeInt = 100  # steps of linear warm-up; constant afterwards
    ema: float = Field(default=0.999, ge=0, lt=1)  # decay of the averaged weights that are evaluated
    clip: PositiveFloat = 1.0  # norm of the gradient
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on CUDA devices that have it
    seed: int = Field(default=0, ge=0, lt=2**63)
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 1000


class RunConfig(Strict):
    """The directory of the run."""

    dir: str


class TrainClusterConfig(Strict):
    """What the job asks of Ray; changes the result by rounding only."""

    workers: PositiveInt | Literal["auto"] = "auto"  # auto: one per GPU, without GPUs one per node
    gpus: Literal[0, 1, "auto"] = "auto"  # per worker; auto: 1 where the cluster has GPUs


class TrainConfig(Strict):
    """All of `flowpairs train CONFIG`."""

    pairs: PairsConfig
    model: ModelConfig = Field(discriminator="kind")
    train: OptimisationConfig
    output: RunConfig
    cluster: TrainClusterConfig = TrainClusterConfig()

    def determining(self) -> dict[str, Any]:
        """The part that determines the weights; the pairs enter by their fingerprint, wherever they lie."""
        aside: Any = {"pairs": {"dir"}, "output": True, "cluster": True, "train": {"log_every", "checkpoint_every"}}
        return self.model_dump(mode="json", exclude=aside)


class EvaluateConfig(Strict):
    """All of `flowpairs evaluate RUN`."""

    samples: int = Field(default=5000, ge=64)
    euler: tuple[PositiveInt, ...] = (4, 8, 16)
    rtol: PositiveFloat = 1e-5  # of dopri5
    atol: PositiveFloat = 1e-5
    pca: PositiveInt = 64  # principal directions of the data that the Frechet distance sees
    batch: PositiveInt = 512
    seed: int = Field(default=0, ge=0, lt=2**63)
