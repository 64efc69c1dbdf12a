"""A trained network as what the solvers integrate: its velocity, guided or not, its SDE and its average velocity."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.objectives import probability_paths
from flowpairs.training.sampling import sde
from flowpairs.training.sampling.ode import Solution, Velocity

SDE_STEPS = (16, 64)  # of [SF]2M models, where no other are asked for


class Flow:
    """A network trained by some configuration, with labels bound to its batch.

    With guidance w a quantity q of the network becomes q(no label) + w (q(label) - q(no label)) (arXiv 2207.12598); an
    evaluation then runs the network twice.

    Args:
        model: as `objectives.network` builds it.
        trained: the configuration of its run.
        label: of each sample of the batch; None for an unconditional model.
        null: the label that stands for none.
        guidance: w.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: TrainConfig,
        label: Int64[Tensor, " b"] | None,
        null: int,
        guidance: float = 1.0,
    ) -> None:
        self.model, self.trained = model, trained
        self.label, self.null, self.guidance = label, null, guidance

    def velocity(self, t: Float[Tensor, " b"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """The marginal velocity."""
        return self._outputs(t, x)[0]

    def sde(self) -> tuple[Velocity, sde.Diffusion]:
        """Drift and diffusion: the bridge's own of an [SF]2M model, else `sde.from_velocity`."""
        path = probability_paths.build_path(self.trained.path)
        if self.trained.objective.kind == "sf2m":
            return lambda t, x: torch.add(*self._outputs(t, x)), lambda t: path.sigma
        return sde.from_velocity(path, self.velocity)

    @torch.no_grad()
    def jump(self, x: Float[Tensor, "b *shape"], steps: int) -> Solution:
        """From t = 0 to 1 in equal steps of a MeanFlow model's average velocity."""
        states = [x]
        for step in range(steps):
            t, until = (torch.full((len(x),), k / steps, dtype=x.dtype, device=x.device) for k in (step, step + 1))
            states.append(states[-1] + self.model(t, states[-1], self.label, until) / steps)
        return Solution(torch.stack(states), steps)

    def _outputs(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """All that the network answers, guided."""
        given = self._run(t, x, self.label)
        if self.guidance == 1:
            return given
        assert self.label is not None
        free = self._run(t, x, torch.full_like(self.label, self.null))
        return tuple(torch.lerp(b, a, self.guidance) for a, b in zip(given, free, strict=True))

    def _run(self, t: Tensor, x: Tensor, label: Tensor | None) -> tuple[Tensor, ...]:
        out = self.model(t, x, label)
        return out if isinstance(out, tuple) else (out,)


def sde_steps(config: EvaluateConfig, trained: TrainConfig) -> tuple[int, ...]:
    """The numbers of steps that SDE samples are made with."""
    if config.sde is not None:
        return config.sde
    return SDE_STEPS if trained.objective.kind == "sf2m" else ()


def check_sampler(config: EvaluateConfig, trained: TrainConfig, method: str, *, two_sided: bool = False) -> None:
    """Refuse samples that the run's model cannot give.

    Args:
        config: of the evaluation.
        trained: of the run.
        method: that coupled its pairs.
        two_sided: whether their x0 is data.

    Raises:
        InputError: guidance of a model that knows no missing labels, or an SDE without a score.
    """
    if config.guidance != 1:
        check_guidance(f"guidance={config.guidance}", trained)
    if sde_steps(config, trained):
        check_sde(f"sde={list(config.sde or ())}", "give sde=[]", trained, method, two_sided=two_sided)


def check_guidance(where: str, trained: TrainConfig) -> None:
    """Refuse guidance, asked for `where`, of a run that cannot be guided."""
    if not trained.train.label_dropout:
        raise InputError(f"{where}: the run hid no labels; train with train.label_dropout=0.1, or leave it at 1")
    if trained.objective.kind == "meanflow":
        raise InputError(f"{where}: average velocities do not add up like this; leave it at 1 for meanflow")


def check_sde(where: str, otherwise: str, trained: TrainConfig, method: str, *, two_sided: bool) -> None:
    """Refuse an SDE, asked for `where`, of a run without a score; `otherwise` says how to do without it."""
    if trained.objective.kind == "sf2m":
        return
    if trained.path.kind == "sb":
        raise InputError(f"{where}: the run has no score net; train with objective.kind=sf2m, or {otherwise}")
    if two_sided:
        raise InputError(
            f"{where}: the score follows from the velocity where x0 is noise, and here it is data; "
            f"train with objective.kind=sf2m, or {otherwise}"
        )
    if trained.path.kind != "fm" and method != "independent":
        raise InputError(
            f"{where}: the score follows from the velocity for independent pairs alone, and these are {method}; "
            f"train on independent pairs or with objective.kind=sf2m, or {otherwise}"
        )
