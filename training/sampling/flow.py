"""The functions of a trained network that solvers integrate: its velocity, with or without guidance, its SDE, jumps."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from flowpairs.pipeline.base.errors import InputError
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.objectives import probability_paths
from flowpairs.training.sampling import sde
from flowpairs.training.sampling.ode import Solution, Velocity

SDE_STEPS = (16, 64)  # default numbers of steps for [SF]2M models


class Flow:
    """A trained network with the labels of one batch.

    With guidance w, an output q of the network becomes q(no label) + w (q(label) - q(no label)) (arXiv 2207.12598); an
    evaluation then runs the network twice.

    Args:
        model: the network, as `objectives.build_network` builds it.
        trained: the configuration of its run.
        label: the label of each sample of the batch; None for an unconditional model.
        null: the label that stands for no label.
        guidance: the scale w; 1 for no guidance.
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
        """Compute the marginal velocity at (t, x)."""
        return self._outputs(t, x)[0]

    def sde(self) -> tuple[Velocity, sde.Diffusion]:
        """Return drift and diffusion: those of the bridge for an [SF]2M model, else those of `sde.from_velocity`."""
        path = probability_paths.build_path(self.trained.path)
        if self.trained.objective.kind == "sf2m":
            return lambda t, x: torch.add(*self._outputs(t, x)), lambda t: path.sigma
        return sde.from_velocity(path, self.velocity)

    @torch.no_grad()
    def jump(self, x: Float[Tensor, "b *shape"], steps: int) -> Solution:
        """Move from t = 0 to 1 in equal steps along a MeanFlow model's average velocity."""
        states = [x]
        for step in range(steps):
            t, until = (torch.full((len(x),), k / steps, dtype=x.dtype, device=x.device) for k in (step, step + 1))
            states.append(states[-1] + self.model(t, states[-1], self.label, until) / steps)
        return Solution(torch.stack(states), steps)

    def _outputs(self, t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Compute all outputs of the network, with guidance."""
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
    """Return the numbers of steps of the SDE samples."""
    if config.sde is not None:
        return config.sde
    return SDE_STEPS if trained.objective.kind == "sf2m" else ()


def check_sampler(config: EvaluateConfig, trained: TrainConfig, method: str, *, two_sided: bool = False) -> None:
    """Refuse samples that the run's model cannot produce.

    Args:
        config: the configuration of the evaluation.
        trained: the configuration of the run.
        method: the method that coupled the pairs of the run.
        two_sided: whether x0 of the pairs is data.

    Raises:
        InputError: guidance is requested from a model trained without label dropout, or an SDE without a score.
    """
    if config.guidance != 1:
        check_guidance(f"guidance={config.guidance}", trained)
    if sde_steps(config, trained):
        check_sde(f"sde={list(config.sde or ())}", "give sde=[]", trained, method, two_sided=two_sided)


def check_guidance(where: str, trained: TrainConfig) -> None:
    """Refuse guidance for a run that does not support it; `where` is the key or option that requests it."""
    if not trained.train.label_dropout:
        raise InputError(f"{where}: the run hid no labels; train with train.label_dropout=0.1, or leave it at 1")
    if trained.objective.kind == "meanflow":
        raise InputError(f"{where}: average velocities do not add up like this; leave it at 1 for meanflow")


def check_sde(where: str, otherwise: str, trained: TrainConfig, method: str, *, two_sided: bool) -> None:
    """Refuse an SDE for a run without a score; `where` is the key or option, `otherwise` the remedy without an SDE."""
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
