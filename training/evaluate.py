"""Evaluation of a finished run: curvature, Frechet distance against function evaluations, and sample images."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayTaskError
from torch import Tensor

from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.owner import owned, refuse_owned
from flowpairs.pipeline.base.progress import working
from flowpairs.pipeline.cluster.connect import connect
from flowpairs.pipeline.cluster.scheduler import own_error
from flowpairs.training.config import EvaluateConfig, TrainConfig
from flowpairs.training.metrics import time_points
from flowpairs.training.metrics.feature_network import Extractor, extractor
from flowpairs.training.metrics.frechet import Gaussian, Principal, frechet_distance
from flowpairs.training.pairs.endpoints import Endpoints, read_endpoints
from flowpairs.training.report import pictures
from flowpairs.training.run.directory import check_pairs, write_json
from flowpairs.training.run.trained import Trained, read_finished
from flowpairs.training.sampling import flow
from flowpairs.training.sampling.curvature import integrate_unit_interval
from flowpairs.training.sampling.sampler import CURVATURE_STEPS, Sampler

SHOWN = 64  # samples per solver that are kept for the report
STAGE = ".evaluating"  # name of the file in a run that says what is being done
OWNER = "evaluation.owner.json"  # name of the file that shows which process evaluates a run
FILM = 8, 9  # number of images whose trajectories are kept, and number of times per trajectory


def evaluate(run_dir: str | Path, config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate the averaged weights of a finished run and write evaluation.json and samples.npz to its directory.

    The evaluation runs as one Ray task, which requests a GPU if the cluster has one.

    Args:
        run_dir: the directory of the run.
        config: the configuration of the evaluation.

    Returns:
        The content of evaluation.json.

    Raises:
        JobError: a solver failed; what the others gave is written.
        InputError: the run does not exist or is not finished, its pairs are gone or have changed, the model cannot
            produce the requested samples, the features are not available or do not fit the data, or another process
            evaluates the run.
    """
    trained, key = read_finished(run_dir), f"run {str(run_dir)!r}"
    refuse_owned(trained.run.path, key, OWNER)
    index = check_pairs(trained.config.pairs.model_copy(update={"dir": trained.pairs}))
    flow.check_sampler(config, trained.config, index.method, two_sided=index.two_sided)
    if tuple(trained.shape) != tuple(index.shape):
        raise InputError(
            f"{key}: trained on data of shape {list(trained.shape)}, and its pairs have {list(index.shape)}; give back "
            "the pairs that it was trained on"
        )
    network = extractor(config.features, trained.shape)
    connect()
    endpoints = read_endpoints(trained.pairs, index, config)
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    cpus = 1 if gpus else int(min(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]))
    task = ray.remote(num_cpus=max(1, cpus), num_gpus=gpus)(measure)
    with owned(trained.run.path, key, "flowpairs evaluate", OWNER):
        stage = trained.run.path / STAGE
        with working(lambda: f"evaluating: {stage.read_text() if stage.is_file() else 'waiting for a node'}"):
            try:
                result, arrays = ray.get(task.remote(trained, config, endpoints, network))
            except RayTaskError as error:
                raise own_error(error) from None
            finally:
                stage.unlink(missing_ok=True)
        report = {
            "run": str(run_dir),
            "pairs_dir": trained.pairs,
            "method": index.method,
            "data_fingerprint": index.data_fingerprint,
            **result,
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(trained.run.path / "samples.npz", buffer.getvalue())
        write_json(trained.run.path / "evaluation.json", report)
    if failed := report.get("failed"):
        reasons = "; ".join(f"{row['solver']}: {row['reason']}" for row in failed)
        raise JobError(f"run {str(run_dir)!r}: {reasons}; what the other solvers gave is in evaluation.json")
    return report


def measure(
    trained: Trained, config: EvaluateConfig, endpoints: Endpoints, network: Extractor | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute the figures for evaluation.json and the arrays for samples.npz; this is the Ray task."""
    start = time.perf_counter()
    device = given_device()
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
    real = endpoints.end
    sampler = Sampler(trained, config, real.label, device, endpoints.starts(config.samples, config.seed))
    features = Principal.fit(real.x, config.pca) if network is None else network.on(device)
    data = Gaussian.fit(features(real.x))

    def begin(stage: str) -> None:
        (trained.run.path / STAGE).write_text(stage)

    begin("curvature")
    curvature = sampler.curvature()
    arrays: dict[str, Any] = {"real": real.x[:SHOWN].numpy()}
    frechet, failed = [], []
    for solver, steps in solvers(config, trained.config):
        name = f"{solver} {steps}" if steps else solver
        begin(f"{config.samples:,} samples by {name}")
        try:
            samples, nfe = sampler.samples(solver, steps)
            distance = frechet_distance(data, Gaussian.fit(features(samples)))
        except JobError as error:
            failed.append({"solver": name, "reason": str(error)})
            continue
        frechet.append({"solver": solver, "nfe": nfe, "fd": distance})
        arrays[f"{solver}{steps or ''}"] = samples[:SHOWN].numpy()
    begin("trajectories")
    if not failed and (paths := trajectories(sampler, real.x)) is not None:
        arrays["trajectories"] = paths
    rows: list[dict[str, Any]] = []
    if endpoints.points and not failed:
        rows, arrays["timepoints"] = time_points.measure_time_points(trained, config, endpoints, device)
    figures = {
        "samples": config.samples,
        "seed": config.seed,
        "guidance": config.guidance,
        "features": f"{len(data.mean)} principal components of {len(real.x)} flattened data"
        if network is None
        else f"{len(data.mean)} outputs of {network} for {len(real.x)} images",
        "curvature": integrate_unit_interval(curvature),
        "curvature_by_t": {
            "t": torch.linspace(0, 1, len(curvature)).tolist(),
            "value": curvature.tolist(),
        },
        "frechet": frechet,
        **({"failed": failed} if failed else {}),
        **({"time_points": rows} if rows else {}),
        "seconds": time.perf_counter() - start,
    }
    return figures, arrays


def given_device() -> torch.device:
    """Return the device that Ray gave this task: its GPU, or the CPU where it was given none.

    Raises:
        JobError: torch does not see the GPU; the CPU would take its place for hours.
    """
    if not ray.get_gpu_ids():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise JobError(
            "evaluate: Ray gave a GPU, and torch sees no CUDA device on that node; install torch for its driver there, "
            "or start that node's Ray with --num-gpus=0"
        )
    return torch.device("cuda")


def solvers(config: EvaluateConfig, trained: TrainConfig) -> list[tuple[str, int | None]]:
    """List the solvers to sample with and their numbers of steps; None for a solver that chooses its steps."""
    out: list[tuple[str, int | None]] = []
    if trained.objective.kind == "meanflow":
        out += [("jump", steps) for steps in config.jumps]
    out += [("euler", steps) for steps in config.euler]
    out += [("sde", steps) for steps in flow.sde_steps(config, trained)]
    return [*out, ("dopri5", None)]


def trajectories(sampler: Sampler, real: Tensor) -> np.ndarray | None:
    """Compute sample trajectories for the report: a few images [k, times, C, H, W], or points [k, times, 2].

    For data in the plane the points are the coordinates; for other data they are the coordinates on the first two
    principal directions of the data. Data with one coordinate have no such picture: the result is None.
    """
    shape = sampler.trained.shape
    if pictures.kind(shape) == "image":
        return sampler.trajectories(*FILM).numpy()
    paths = sampler.trajectories(SHOWN, CURVATURE_STEPS + 1)
    if pictures.kind(shape) == "plane":
        return paths.numpy()
    principal = Principal.fit(real, 2)
    if principal.directions.shape[1] < 2:
        return None
    return principal(paths.flatten(0, 1)).unflatten(0, paths.shape[:2]).float().numpy()
