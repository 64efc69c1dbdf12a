"""Configuration models of `flowpairs train CONFIG`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from flowpairs.pipeline.config import Strict


class PairsConfig(Strict):
    """The pair store to regress on.

    `stream:DIR` is short for a store that is read while its coupling job still runs, `semidiscrete:DIR` for a store
    whose potentials assign data to fresh noise during training.
    """

    dir: str
    source: Literal["shards", "stream", "semidiscrete"] = "shards"
    fingerprint: str | None = None  # hash that the pairs must have; the resolved config records the one read
    patience: PositiveFloat | None = 3600.0  # seconds that a stream waits for a shard; None: without limit

    @model_validator(mode="before")
    @classmethod
    def _accept_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        for source in ("stream", "semidiscrete"):
            if value.startswith(f"{source}:"):
                return {"dir": value.removeprefix(f"{source}:"), "source": source}
        return {"dir": value}

    @model_validator(mode="after")
    def _waits(self) -> "PairsConfig":
        if self.source != "stream" and self.patience != type(self).model_fields["patience"].default:
            raise ValueError(f"patience={self.patience}: only pairs=stream:{self.dir} waits for shards; remove it")
        return self


class MLPConfig(Strict):
    """Residual MLP on the flattened data, for vectors and small images."""

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


class PathConfig(Strict):
    """The path between x0 and x1 of a pair: see training/objectives/probability_paths.py and docs/training.md."""

    belonging: ClassVar = {"kind": ("sigma",)}  # sigma has another meaning for each kind

    kind: Literal["cfm", "fm", "sb", "vp"] = "cfm"
    sigma: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _sigma(self) -> "PathConfig":
        if self.kind == "sb" and self.sigma == 0:
            raise ValueError("kind sb is a bridge of diffusion sigma, which is 0; give sigma, or kind cfm")
        if self.kind == "fm" and self.sigma >= 1:
            raise ValueError(f"sigma={self.sigma}: kind fm narrows from 1 to sigma; give one below 1")
        return self


class VelocityConfig(Strict):
    """Regress on the path's velocity."""

    kind: Literal["velocity"] = "velocity"


class BridgeMatchingConfig(Strict):
    """[SF]2M: a velocity network and a score network on Brownian bridges, sampled as an ODE and as an SDE."""

    kind: Literal["sf2m"]


class MeanFlowConfig(Strict):
    """MeanFlow: regress on the average velocity of an interval, sampled in one to four steps."""

    kind: Literal["meanflow"]
    spans: float = Field(default=0.25, ge=0, le=1)  # fraction of the samples whose interval has positive length


ObjectiveConfig = VelocityConfig | BridgeMatchingConfig | MeanFlowConfig


class TimesConfig(Strict):
    """The distribution of the training times."""

    belonging: ClassVar = {"kind": ("mean", "std")}

    kind: Literal["uniform", "logit-normal"] = "uniform"
    mean: float = 0.0  # mean of logit(t); values above 0 give times nearer to the data
    std: PositiveFloat = 1.0  # standard deviation of logit(t)

    @model_validator(mode="after")
    def _moments(self) -> "TimesConfig":
        if self.kind == "uniform" and (self.mean, self.std) != (0.0, 1.0):
            raise ValueError("mean and std belong to kind logit-normal, not to uniform; remove them")
        return self


class LossConfig(Strict):
    """The weights of the squared errors; the weights of the pairs, if they have any, multiply them."""

    time: Literal["uniform", "bridge"] = "uniform"  # bridge: 4 t (1 - t), cancels the pole of path sb's error
    adaptive: float = Field(default=0.0, ge=0, le=1)  # p: weight 1 / (error + 0.001)^p; 0.5 is like pseudo-Huber


Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimisationConfig(Strict):
    """The optimisation of the regression loss with AdamW."""

    belonging: ClassVar = {"schedule": ("decay_steps", "lr_end")}

    steps: PositiveInt
    batch: PositiveInt = 256  # pairs per step, over all workers
    accumulate: PositiveInt = 1  # number of parts in which a worker computes its share of a step, to save memory
    lr: PositiveFloat = 1e-3
    warmup: NonNegativeInt = 100  # steps of linear warm-up
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of the learning rate after its warm-up
    decay_steps: PositiveInt | None = None  # step at which a falling rate reaches lr_end; the resolved config has one
    lr_end: float = Field(default=0.0, ge=0)  # learning rate that linear and cosine fall to, and stay at
    weight_decay: float = Field(default=0.01, ge=0)  # AdamW's: a step takes lr * weight_decay of every weight away
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)  # decays of AdamW's averages of the gradient and of its square
    ema: float = Field(default=0.999, ge=0, lt=1)  # decay of the averaged weights, which are the ones evaluated
    ema_warmup: NonNegativeInt = 0  # w: after n steps the decay is at most (1 + n) / (w + n); TensorFlow's w is 10
    clip: PositiveFloat = 1.0  # largest norm of the gradient
    label_dropout: float = Field(default=0.0, ge=0, lt=1)  # fraction of samples whose label is hidden, for guidance
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on CUDA devices that have it
    init: str | None = None  # weights to start from: a run, an export, or a UNet2DModel of diffusers
    init_fingerprint: str | None = None  # hash that they must have; the resolved config records the one read
    compile: bool | Literal["auto"] = "auto"  # torch.compile, a minute at the first step; auto: on CUDA devices
    gradients: Literal["fp32", "bf16"] = "fp32"  # in which workers add them up; bf16 halves what goes over the network
    seed: int = Field(default=0, ge=0, lt=2**63)
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 1000

    @model_validator(mode="before")
    @classmethod
    def _pin_decay(cls, value: Any) -> Any:
        """Record the step at which the rate has fallen, which a larger number of steps must not move."""
        falls = isinstance(value, dict) and value.get("schedule", "constant") != "constant"
        return value | {"decay_steps": value.get("steps")} if falls and value.get("decay_steps") is None else value

    @model_validator(mode="after")
    def _falls(self) -> "OptimisationConfig":
        if self.schedule == "constant" and (self.decay_steps is not None or self.lr_end):
            raise ValueError("decay_steps and lr_end belong to schedule linear and cosine, not to constant; remove")
        if self.decay_steps is not None and self.decay_steps <= self.warmup:
            raise ValueError(
                f"decay_steps={self.decay_steps}: the rate falls from warmup={self.warmup} to there; raise it"
            )
        if self.lr_end > self.lr:
            raise ValueError(f"lr_end={self.lr_end}: above lr={self.lr}, and the rate falls; lower it")
        return self


class RunConfig(Strict):
    """The directory of the run, and the trackers that also receive its log."""

    dir: str
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)  # see training/run/trackers.py


class TrainClusterConfig(Strict):
    """The resources that the job requests from Ray; they change the result by rounding only."""

    # auto: one per GPU, or one per node without GPUs. [least, most]: as many as fit, as nodes come and go.
    workers: PositiveInt | tuple[PositiveInt, PositiveInt] | Literal["auto"] = "auto"
    gpus: Literal[0, 1, "auto"] = "auto"  # per worker; auto: 1 where the cluster has GPUs
    cpus: PositiveInt | Literal["auto"] = "auto"  # per worker; auto: a node's cores divided among the workers it holds


# Keys of `train` that change weights by rounding only, and a path whose content has a fingerprint.
ASIDE = "log_every", "checkpoint_every", "accumulate", "compile", "init"


class TrainConfig(Strict):
    """The complete configuration of `flowpairs train CONFIG`."""

    pairs: PairsConfig
    model: ModelConfig = Field(discriminator="kind")
    path: PathConfig = PathConfig()
    objective: ObjectiveConfig = Field(default=VelocityConfig(), discriminator="kind")
    times: TimesConfig = TimesConfig()
    loss: LossConfig = LossConfig()
    train: OptimisationConfig
    output: RunConfig
    cluster: TrainClusterConfig = TrainClusterConfig()

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        if self.objective.kind == "sf2m" and self.path.kind != "sb":
            raise ValueError(f"objective.kind=sf2m is of bridges, not of path.kind={self.path.kind}; give path.kind=sb")
        if self.objective.kind == "meanflow" and self.train.compile is True:
            raise ValueError("train.compile does not know the derivatives of objective.kind=meanflow; remove it")
        if self.train.label_dropout and not self.model.conditional:
            raise ValueError("train.label_dropout drops labels that the model does not see; set model.conditional=true")
        return self

    def determining(self) -> dict[str, Any]:
        """Return the part that determines the weights; the pairs enter by fingerprint, not by directory."""
        aside: Any = {"pairs": {"dir", "patience"}, "output": True, "cluster": True, "train": set(ASIDE)}
        return self.model_dump(mode="json", exclude=aside)
