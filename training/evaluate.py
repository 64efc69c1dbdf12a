"""Evaluation of a finished run: curvature, Frechet distance against function evaluations, samples to look at."""

import io
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from pipeline import noise
from pipeline.cluster import connect
from pipeline.config import load
from pipeline.errors import InputError
from pipeline.files import write_atomically
from pipeline.store.format import Index, read_index
from training import flow, metrics, objectives, ode, sde
from training.config import EvaluateConfig, TrainConfig
from training.directory import RunDirectory, check_pairs, write_json
from training.flow import Flow
from training.reference import Reference, read_reference
from training.state import read_checkpoint

SHOWN = 64  # samples kept to look at
CURVATURE_SAMPLES = 1024
CURVATURE_STEPS = 32  # of Heun


def evaluate(run_dir: str | Path, config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate the averaged weights of a finished run; leaves evaluation.json and samples.npz in its directory.

    The work is one Ray task that asks for a GPU where the cluster has one.

    Args:
        run_dir: the directory of the run.
        config: of the evaluation.

    Returns:
        The content of evaluation.json.

    Raises:
        InputError: no such run, a run that is not finished, pairs that are gone or have changed, or samples that the
            model cannot give.
    """
    run = RunDirectory(Path(run_dir).absolute())
    if not run.config.is_file():
        raise InputError(f"run {str(run_dir)!r}: not a training run; give the output.dir of `flowpairs train`")
    summary = run.summary()
    if summary is None:
        raise InputError(f"run {str(run_dir)!r}: not finished; run the same `flowpairs train` again to complete it")
    trained = load(TrainConfig, run.config)
    pairs = summary["pairs_dir"]
    index = check_pairs(trained.pairs.model_copy(update={"dir": pairs}))
    flow.check(config, trained, index.method)
    connect()
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    cpus = 1 if gpus else int(min(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]))
    task = ray.remote(num_cpus=max(1, cpus), num_gpus=gpus)(measure)
    checkpoint = run.path / summary["checkpoint"]
    result, arrays = ray.get(task.remote(trained, pairs, str(checkpoint), config))
    report = {
        "run": str(run_dir),
        "pairs_dir": pairs,
        "method": index.method,
        "data_fingerprint": index.data_fingerprint,
        **result,
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(run.path / "samples.npz", buffer.getvalue())
    write_json(run.path / "evaluation.json", report)
    return report


def measure(
    trained: TrainConfig, pairs: str, checkpoint: str, config: EvaluateConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The task: figures for evaluation.json and arrays for samples.npz."""
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    index = read_index(pairs)
    real = read_reference(pairs, index)
    sampler = Sampler(trained, Path(checkpoint), index, real, config, device)
    principal = metrics.Principal.fit(real.x1, config.pca)
    data = metrics.Gaussian.fit(principal(real.x1))

    curvature = sampler.curvature()
    arrays: dict[str, Any] = {"real": real.x1[:SHOWN].numpy()}
    frechet = []
    for solver, steps in sampler.solvers():
        samples, nfe = sampler.samples(solver, steps)
        distance = metrics.frechet_distance(data, metrics.Gaussian.fit(principal(samples)))
        frechet.append({"solver": solver, "nfe": nfe, "fd": distance})
        arrays[f"{solver}{steps or ''}"] = samples[:SHOWN].numpy()
    if index.shape == (2,):
        arrays["trajectories"] = sampler.trajectories()
    figures = {
        "samples": config.samples,
        "seed": config.seed,
        "guidance": config.guidance,
        "features": f"{principal.directions.shape[1]} principal components of {len(real.x1)} flattened data",
        "curvature": metrics.integrate_unit_interval(curvature),
        "curvature_by_t": {
            "t": torch.linspace(0, 1, len(curvature)).tolist(),
            "value": curvature.tolist(),
        },
        "frechet": frechet,
        "seconds": time.perf_counter() - start,
    }
    return figures, arrays


class Sampler:
    """The trained velocity on a set of noises that depends on the data's shape, the seed and their number alone."""

    def __init__(
        self,
        trained: TrainConfig,
        checkpoint: Path,
        index: Index,
        real: Reference,
        config: EvaluateConfig,
        device: torch.device,
    ) -> None:
        self.config, self.device = config, device
        self.trained, self.null = trained, index.num_classes
        self.model = objectives.network(trained, index.shape, index.num_classes)
        self.model.load_state_dict(read_checkpoint(checkpoint, device)["ema"])
        self.model.to(device).eval()
        generator = torch.Generator().manual_seed(config.seed)
        self.noise: Float32[Tensor, "n *shape"] = torch.randn(config.samples, *index.shape, generator=generator)
        self.labels: Int64[Tensor, " n"] | None = None
        if trained.model.conditional:
            assert real.label is not None
            self.labels = real.label[torch.randint(len(real.label), (config.samples,), generator=generator)]

    def solvers(self) -> list[tuple[str, int | None]]:
        """Which solvers, with how many steps; None where a solver chooses."""
        out: list[tuple[str, int | None]] = []
        if self.trained.objective.kind == "meanflow":
            out += [("jump", steps) for steps in self.config.jumps]
        out += [("euler", steps) for steps in self.config.euler]
        out += [("sde", steps) for steps in flow.sde_steps(self.config, self.trained)]
        return [*out, ("dopri5", None)]

    def samples(self, solver: str, steps: int | None) -> tuple[Float32[Tensor, "n *shape"], float]:
        """All samples by one of `solvers`, and the mean number of function evaluations."""
        parts, evaluations = [], 0
        for rows, bound, x0 in self._batches(self.config.samples):
            if steps is None:
                solution = ode.solve_dopri5(bound.velocity, x0, self.config.rtol, self.config.atol)
            elif solver == "euler":
                solution = ode.solve_fixed(bound.velocity, x0, solver, steps)
            elif solver == "jump":
                solution = bound.jump(x0, steps)
            else:
                solution = sde.solve_sde(*bound.sde(), x0, steps, partial(self._normals, rows))
            parts.append(solution.end.cpu())
            evaluations += solution.nfe * len(x0)
        return torch.cat(parts), evaluations / self.config.samples

    def curvature(self) -> Tensor:
        """Mean over the first CURVATURE_SAMPLES noises, by time."""
        count = min(CURVATURE_SAMPLES, self.config.samples)
        batches = self._batches(count)
        sums = [metrics.curvature_by_time(bound.velocity, x0, CURVATURE_STEPS) for _, bound, x0 in batches]
        return torch.stack(sums).sum(0).cpu() / count

    def trajectories(self) -> Float32[np.ndarray, "n times 2"]:
        """Where the shown samples run, by dopri5."""
        _, bound, x0 = next(self._batches(SHOWN))
        times = torch.linspace(0, 1, CURVATURE_STEPS + 1, device=self.device)
        states = ode.solve_dopri5(bound.velocity, x0, self.config.rtol, self.config.atol, times).states
        return states.transpose(0, 1).cpu().numpy()

    def _batches(self, count: int) -> Iterator[tuple[slice, Flow, Float32[Tensor, "b *shape"]]]:
        """Rows, flow and noise of batch after batch; a conditional flow has its batch's labels bound."""
        for first in range(0, count, self.config.batch):
            rows = slice(first, min(first + self.config.batch, count))
            label = None if self.labels is None else self.labels[rows].to(self.device)
            bound = Flow(self.model, self.trained, label, self.null, self.config.guidance)
            yield rows, bound, self.noise[rows].to(self.device)

    def _normals(self, rows: slice, step: int) -> Float32[Tensor, "b *shape"]:
        """What drives the SDE in one step, the same for a sample however the samples are batched."""
        first, count = step * self.config.samples + rows.start, rows.stop - rows.start
        drawn = noise.gaussian(self.config.seed, first, count, self.noise[0].numel(), noise.Stream.PATH)
        return torch.from_numpy(drawn).view(count, *self.noise.shape[1:]).to(self.device)
