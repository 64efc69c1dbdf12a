"""An evaluation shared out: each task draws some batches of samples and returns their features, in any number of tasks.

A sample depends on its number and a batch on its place, not on the task that draws it; features are taken batch by
batch and put together in the order of the numbers. So the distances are the same for any number of tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import ray
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from flowpairs.pipeline.base.errors import JobError
from flowpairs.pipeline.blocks import noise
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.metrics.feature_network import Extractor
from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance
from flowpairs.training.pairs.endpoints import Endpoints
from flowpairs.training.run.trained import Trained
from flowpairs.training.sampling import flow
from flowpairs.training.sampling.sampler import Sampler, batches_of

SHOWN = 64  # samples per solver that are kept for the report
STAGE = ".evaluating"  # name of the file in a run that says what is being done
REAL = "real"  # name of the reference among the solvers
FLOOR_DRAWS = 4


@dataclass(frozen=True)
class EvaluationWork:
    """What every task of an evaluation needs.

    Attributes:
        trained: the network.
        config: the configuration of the evaluation.
        endpoints: the data at both ends of the flow.
        network: the feature network; None: principal components.
    """

    trained: Trained
    config: EvaluateConfig
    endpoints: Endpoints
    network: Extractor | None

    def sampler(self, device: torch.device) -> Sampler:
        """Build the flow with its starts on a device."""
        starts = self.endpoints.starts(self.config.samples, self.config.seed)
        return Sampler(self.trained, self.config, self.endpoints.end.label, device, starts)

    def begin(self, stage: str) -> None:
        """Say what is being done."""
        (self.trained.run.path / STAGE).write_text(stage)


@dataclass(frozen=True)
class Drawn:
    """Samples of one solver by one task.

    Attributes:
        shown: the first of them.
        evaluations: the function evaluations of all of them together.
        failed: why the solver failed; None if it did not.
    """

    shown: Float32[Tensor, "k *shape"] | None
    evaluations: int = 0
    failed: str | None = None


Features = dict[str, Float64[Tensor, "n f"]]  # by solver, and of the reference


def solvers(config: EvaluateConfig, trained: TrainConfig) -> list[tuple[str, int | None]]:
    """List the solvers to sample with and their numbers of steps; None for a solver that chooses its steps."""
    out: list[tuple[str, int | None]] = []
    if trained.objective.kind == "meanflow":
        out += [("jump", steps) for steps in config.jumps]
    out += [("euler", steps) for steps in config.euler]
    out += [("sde", steps) for steps in flow.sde_steps(config, trained)]
    return [*out, ("dopri5", None)]


def solver_name(solver: str, steps: int | None) -> str:
    """Name a solver with its steps, as in `euler 4`."""
    return f"{solver} {steps}" if steps else solver


def share_of(batches: Sequence[slice], number: int, shares: int) -> Sequence[slice]:
    """Return one of `shares` runs of batches, as even as possible; in the order of their numbers they are all."""
    first, last = (k * len(batches) // shares for k in (number, number + 1))
    return batches[first:last]


def fit_principal(work: EvaluationWork) -> Principal | None:
    """Fit the principal components of the reference; None if a network gives the features."""
    return Principal.fit(work.endpoints.end.x, work.config.pca) if work.network is None else None


def measure_share(
    work: EvaluationWork, principal: Principal | None, number: int, shares: int
) -> tuple[dict[str, Drawn], Features]:
    """Draw one share of the samples by every solver, and take their features and those of a share of the reference.

    A solver that fails leaves no features.
    """
    device, config = given_device(work.config), work.config
    sampler = work.sampler(device)
    features: Callable[[Tensor], Tensor] | None = principal if work.network is None else work.network.on(device)
    assert features is not None
    real, drawn, found = work.endpoints.end.x, dict[str, Drawn](), dict[str, list[Tensor]]()
    found[REAL] = [features(real[rows]) for rows in share_of(batches_of(len(real), config.batch), number, shares)]
    batches = share_of(batches_of(config.samples, config.batch), number, shares)
    for solver, steps in solvers(config, work.trained.config):
        name, shown, parts, evaluations = solver_name(solver, steps), list[Tensor](), list[Tensor](), 0
        if number == 0:
            work.begin(f"{config.samples:,} samples by {name}")
        try:
            for x, nfe in sampler.draw(solver, steps, batches):
                shown += [x] if sum(map(len, shown)) < SHOWN else []
                parts.append(features(x))
                evaluations += nfe * len(x)
        except JobError as error:
            drawn[name] = Drawn(None, failed=str(error))
        else:
            drawn[name], found[name] = Drawn(torch.cat(shown)[:SHOWN], evaluations), parts
    return drawn, {name: torch.cat(parts) for name, parts in found.items() if parts}


def measure_distances(
    names: Sequence[str], count: int, seed: int, *shares: Features
) -> tuple[int, dict[str, float | str], float]:
    """Compute the Frechet distance of each solver's samples to the reference, or why there is none.

    `shares` are the features of all shares, in their order.

    Returns:
        The number of features, the distances by solver, and their floor: the distance of `count` data of the reference
        itself, drawn with replacement, the mean over FLOOR_DRAWS draws. Samples without fault are as far from it.
    """
    whole = {name: torch.cat([share[name] for share in shares if name in share]) for name in (REAL, *names)}
    real, out = Gaussian.fit(whole[REAL]), dict[str, float | str]()
    for name in names:
        try:
            out[name] = frechet_distance(real, Gaussian.fit(whole[name]))
        except JobError as error:
            out[name] = str(error)
    floors = []
    for number in range(FLOOR_DRAWS):
        u = noise.uniforms(seed, noise.Stream.STARTS, number * count, count)
        drawn = whole[REAL][torch.from_numpy((u * len(whole[REAL])).astype(np.int64))]
        floors.append(frechet_distance(real, Gaussian.fit(drawn)))
    return len(real.mean), out, sum(floors) / FLOOR_DRAWS


def given_device(config: EvaluateConfig) -> torch.device:
    """Return the device that Ray gave this task: its GPU, or the CPU where it was given none.

    With `workers: 0` there is no task, and the process takes what torch sees.

    Raises:
        JobError: torch does not see the GPU; the CPU would take its place for hours.
    """
    if config.workers == 0:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    if not ray.get_gpu_ids():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise JobError(
            "evaluate: Ray gave a GPU, and torch sees no CUDA device on that node; install torch for its driver there, "
            "or start that node's Ray with --num-gpus=0"
        )
    return torch.device("cuda")
