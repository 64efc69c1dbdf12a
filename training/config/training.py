"""Configuration models of `flowpairs train CONFIG`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from flowpairs.pipeline.config import Strict
from flowpairs.pipeline.config.own_code import OWN_NAME, import_own


class PairsConfig(Strict):
    """The pair store to regress on.

    `stream:DIR` is short for a store that is read while its coupling job still runs, `semidiscrete:DIR` for a store
    whose potentials assign data to fresh noise during training.
    """

    dir: str
    """Directory or URL of the pair store."""
    source: Literal["shards", "stream", "semidiscrete"] = "shards"
    """How pairs come: from finished shards, from shards as they appear, or by semi-discrete potentials for
    fresh noise."""
    fingerprint: str | None = None
    """Hash that the pairs must have; the resolved config records the one read."""
    patience: PositiveFloat | None = 3600.0
    """How long a stream waits for a shard; null: without limit. [s]"""

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
    """The network: here a residual MLP on the flattened data."""
    width: PositiveInt = 512
    """Width of the hidden layers. [numbers]"""
    depth: PositiveInt = 4
    """Residual blocks. [blocks]"""
    conditional: bool = False
    """Whether the model sees the labels."""


class UNetConfig(Strict):
    """diffusers' UNet2DModel for images."""

    kind: Literal["unet"]
    """The network: here diffusers' UNet2DModel for images."""
    channels: tuple[Annotated[int, Field(ge=8, multiple_of=8)], ...] = Field(default=(32, 64, 64), min_length=1)
    """Channels at each resolution; every entry after the first halves the resolution. [channels]"""
    layers: PositiveInt = 2
    """ResNet blocks at each resolution. [blocks]"""
    conditional: bool = False
    """Whether the model sees the labels."""


class DiTConfig(Strict):
    """Diffusion transformer on image patches."""

    kind: Literal["dit"]
    """The network: here a diffusion transformer on image patches."""
    patch: PositiveInt = 2
    """Side of a patch. [pixels]"""
    width: Annotated[int, Field(ge=8, multiple_of=4)] = 192
    """Width of the transformer. [numbers]"""
    depth: PositiveInt = 6
    """Transformer blocks. [blocks]"""
    heads: PositiveInt = 3
    """Attention heads of a block. [heads]"""
    conditional: bool = False
    """Whether the model sees the labels."""


class OwnConfig(Strict):
    """A network of your own; `kind: module:class` with its arguments beside is short for it."""

    kind: Literal["own"]
    """The network: here a class of your own, called as model(t, x, label)."""
    network: str = Field(pattern=f"^{OWN_NAME}$")
    """The class, as module:class, which extends torch.nn.Module."""
    args: dict[str, Any] = Field(default={})
    """Keyword arguments of the class, beside shape and num_classes."""
    conditional: bool = False
    """Whether the model sees the labels."""

    def imported(self) -> Any:
        """Import the class, by the user's consent alone; `InputError` where it cannot be imported."""
        return import_own("model.network", self.network)


ModelConfig = MLPConfig | UNetConfig | DiTConfig | OwnConfig


class PathConfig(Strict):
    """The path between x0 and x1 of a pair: see training/objectives/probability_paths.py and docs/training.md."""

    belonging: ClassVar = {"kind": ("sigma",)}  # sigma has another meaning for each kind

    kind: Literal["cfm", "fm", "sb", "vp"] = "cfm"
    """The path between the two rows of a pair: cfm (straight), fm, sb (a bridge) or vp."""
    sigma: float = Field(default=0.0, ge=0)
    """Noise of the path, whose meaning depends on its kind (docs/training.md). [units of the data]"""

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
    """What the model learns: here the path's velocity."""


class BridgeMatchingConfig(Strict):
    """[SF]2M: a velocity network and a score network on Brownian bridges, sampled as an ODE and as an SDE."""

    kind: Literal["sf2m"]
    """What the model learns: here [SF]2M's velocity and score on bridges."""


class MeanFlowConfig(Strict):
    """MeanFlow: regress on the average velocity of an interval, sampled in one to four steps."""

    kind: Literal["meanflow"]
    """What the model learns: here MeanFlow's average velocity of an interval."""
    spans: float = Field(default=0.25, ge=0, le=1)
    """Fraction of the samples whose interval has positive length. [1]"""


class OwnObjectiveConfig(Strict):
    """An objective of your own, for a network that is sampled as a velocity; `kind: module:class` is short for it."""

    kind: Literal["own"]
    """What the model learns: here a velocity, by a loss of your own."""
    objective: str = Field(pattern=f"^{OWN_NAME}$")
    """The class, as module:class, which extends flowpairs.training.objectives.Objective."""
    args: dict[str, Any] = Field(default={})
    """Keyword arguments of the class, beside those of Objective."""

    def imported(self) -> Any:
        """Import the class, by the user's consent alone; `InputError` where it cannot be imported."""
        return import_own("objective.objective", self.objective)


ObjectiveConfig = VelocityConfig | BridgeMatchingConfig | MeanFlowConfig | OwnObjectiveConfig


class TimesConfig(Strict):
    """The distribution of the training times."""

    belonging: ClassVar = {"kind": ("mean", "std")}

    kind: Literal["uniform", "logit-normal"] = "uniform"
    """Distribution of the training times."""
    mean: float = 0.0
    """Mean of logit(t); above 0 times are nearer to the data. [1]"""
    std: PositiveFloat = 1.0
    """Standard deviation of logit(t). [1]"""

    @model_validator(mode="after")
    def _moments(self) -> "TimesConfig":
        if self.kind == "uniform" and (self.mean, self.std) != (0.0, 1.0):
            raise ValueError("mean and std belong to kind logit-normal, not to uniform; remove them")
        return self


class LossConfig(Strict):
    """The weights of the squared errors; the weights of the pairs, if they have any, multiply them."""

    time: Literal["uniform", "bridge"] = "uniform"
    """Weight of an error by its time: none, or 4 t (1 - t), which cancels the pole of path sb."""
    adaptive: float = Field(default=0.0, ge=0, le=1)
    """Power p of the weight 1 / (error + 0.001)^p; 0.5 is like pseudo-Huber. [1]"""


Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimisationConfig(Strict):
    """The optimisation of the regression loss with AdamW."""

    belonging: ClassVar = {"schedule": ("decay_steps", "lr_end")}

    steps: PositiveInt
    """Steps of the run; a larger number lengthens a finished run. [steps]"""
    batch: PositiveInt = 256
    """Pairs per step, over all workers. [pairs]"""
    accumulate: PositiveInt = 1
    """Parts in which a worker computes its share of a step, to save memory. [parts]"""
    lr: PositiveFloat = 1e-3
    """Learning rate of AdamW. [1]"""
    warmup: NonNegativeInt = 100
    """Steps of linear warm-up of the learning rate. [steps]"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes on after its warm-up."""
    decay_steps: PositiveInt | None = None
    """Step at which a falling rate reaches lr_end; null: the last one, which the resolved config records. [steps]"""
    lr_end: float = Field(default=0.0, ge=0)
    """Learning rate that linear and cosine fall to, and stay at. [1]"""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW: a step takes lr * weight_decay of every weight away. [1]"""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decays of AdamW's averages of the gradient and of its square. [1]"""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the averaged weights, which are the ones evaluated. [1]"""
    ema_warmup: NonNegativeInt = 0
    """Number w: after n steps the decay is at most (1 + n) / (w + n); TensorFlow's w is 10. [steps]"""
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient. [1]"""
    label_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of samples whose label is hidden, for guidance. [1]"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the model's computation; auto: bf16 on CUDA devices that have it."""
    init: str | None = None
    """Weights to start from: a run, an export, or a UNet2DModel of diffusers."""
    init_fingerprint: str | None = None
    """Hash that those weights must have; the resolved config records the one read."""
    compile: bool | Literal["auto"] = "auto"
    """Whether to use torch.compile, which takes a minute at the first step; auto: on CUDA devices."""
    gradients: Literal["fp32", "bf16"] = "fp32"
    """Precision in which workers add up gradients; bf16 halves what goes over the network."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of all randomness in training."""
    log_every: PositiveInt = 50
    """Steps between two lines of the log. [steps]"""
    checkpoint_every: PositiveInt = 1000
    """Steps between two checkpoints. [steps]"""

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
    """Directory of the run, on a file system that all nodes share."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Where the log also goes, beside metrics.jsonl."""


class TrainClusterConfig(Strict):
    """The resources that the job requests from Ray; they change the result by rounding only."""

    workers: NonNegativeInt | tuple[PositiveInt, PositiveInt] | Literal["auto"] = "auto"
    """Workers; auto: one per GPU, or one per node without GPUs; [least, most]: as many as fit, as nodes come and go;
    0: train in the calling process, without Ray. [workers]"""
    gpus: Literal[0, 1, "auto"] = "auto"
    """GPUs of a worker; auto: 1 where the cluster has GPUs. [GPUs]"""
    cpus: PositiveInt | Literal["auto"] = "auto"
    """CPU cores of a worker; auto: a node's cores divided among its workers. [cores]"""


# Keys of `train` that change weights by rounding only, and a path whose content has a fingerprint.
ASIDE = "log_every", "checkpoint_every", "accumulate", "compile", "init"


class TrainConfig(Strict):
    """The complete configuration of `flowpairs train CONFIG`."""

    pairs: PairsConfig
    """The pair store to regress on."""
    model: ModelConfig = Field(discriminator="kind")
    """The network."""
    path: PathConfig = PathConfig()
    """The path between the two rows of a pair."""
    objective: ObjectiveConfig = Field(default=VelocityConfig(), discriminator="kind")
    """What the model learns."""
    times: TimesConfig = TimesConfig()
    """The distribution of the training times."""
    loss: LossConfig = LossConfig()
    """Weights of the squared errors."""
    train: OptimisationConfig
    """The optimisation."""
    output: RunConfig
    """The directory of the run."""
    cluster: TrainClusterConfig = TrainClusterConfig()
    """What the job requests from Ray; it changes the result by rounding only."""

    @model_validator(mode="before")
    @classmethod
    def _own_classes(cls, value: Any) -> Any:
        """Accept `kind: module:class` with the arguments of the class beside it, of the model and the objective."""
        for part, name, kept in (("model", "network", ("conditional",)), ("objective", "objective", ())):
            given = value.get(part) if isinstance(value, dict) else None
            if not (isinstance(given, dict) and ":" in str(given.get("kind"))):
                continue
            args = {key: each for key, each in given.items() if key not in ("kind", "args", *kept)}
            own = {"kind": "own", name: given["kind"], "args": args | given.get("args", {})}
            value = value | {part: own | {key: given[key] for key in kept if key in given}}
        return value

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
