"""Evaluation of a finished run: curvature, Frechet distance against function evaluations, and sample images."""

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowpairs.pipeline.base.atomic import write_atomically
from flowpairs.pipeline.base.environment import made_with
from flowpairs.pipeline.base.errors import InputError, JobError
from flowpairs.pipeline.base.owner import owned, refuse_owned
from flowpairs.pipeline.base.progress import working
from flowpairs.pipeline.cluster.connect import connect
from flowpairs.training.config import EvaluateConfig, TrainClusterConfig
from flowpairs.training.metrics import time_points
from flowpairs.training.metrics.calls import Here, Tasks
from flowpairs.training.metrics.feature_network import extractor
from flowpairs.training.metrics.frechet import Principal
from flowpairs.training.metrics.shares import (
    SHOWN,
    STAGE,
    EvaluationWork,
    fit_principal,
    given_device,
    measure_distances,
    measure_share,
    solver_name,
    solvers,
)
from flowpairs.training.pairs.endpoints import read_endpoints
from flowpairs.training.report.drawing import pictures
from flowpairs.training.run.directory import check_pairs, write_json
from flowpairs.training.run.trained import read_finished
from flowpairs.training.run.workers import WorkerShape, own_shape, worker_shape
from flowpairs.training.sampling import flow
from flowpairs.training.sampling.curvature import integrate_unit_interval
from flowpairs.training.sampling.sampler import CURVATURE_STEPS, Sampler, batches_of

OWNER = "evaluation.owner.json"  # name of the file that shows which process evaluates a run
FILM = 8, 9  # number of images whose trajectories are kept, and number of times per trajectory


def evaluate(run_dir: str | Path, config: EvaluateConfig, *, trust: bool = False) -> dict[str, Any]:
    """Evaluate the averaged weights of a finished run and write evaluation.json and samples.npz to its directory.

    The samples are drawn by as many Ray tasks as there are GPUs, or nodes where there are none; with `workers: 0` in
    this process.

    Args:
        run_dir: the directory of the run.
        config: the configuration of the evaluation.
        trust: whether a network that is a class of somebody's own may be imported.

    Returns:
        The content of evaluation.json.

    Raises:
        JobError: a solver failed; what the others gave is written.
        InputError: the run does not exist or is not finished, its pairs are gone or have changed, the model cannot
            produce the requested samples, the features are not available or do not fit the data, or another process
            evaluates the run.
    """
    trained, key = read_finished(run_dir, trust=trust), f"run {str(run_dir)!r}"
    trained.refuse_untrusted()
    refuse_owned(trained.run.path, key, OWNER)
    index = check_pairs(trained.config.pairs.model_copy(update={"dir": trained.pairs}))
    flow.check_sampler(config, trained.config, index.method, two_sided=index.two_sided)
    if tuple(trained.shape) != tuple(index.shape):
        raise InputError(
            f"{key}: trained on data of shape {list(trained.shape)}, and its pairs have {list(index.shape)}; give back "
            "the pairs that it was trained on"
        )
    network = extractor(config.features, trained.shape)
    endpoints = read_endpoints(trained.pairs, index, config)
    shape = _shape(config)
    with owned(trained.run.path, key, "flowpairs evaluate", OWNER):
        stage = trained.run.path / STAGE
        first = "waiting for a node" if shape.workers else "reading data"
        with working(lambda: f"evaluating: {stage.read_text() if stage.is_file() else first}"):
            try:
                result, arrays = _measured(EvaluationWork(trained, config, endpoints, network), shape)
            finally:
                stage.unlink(missing_ok=True)
        reference = endpoints.end.x
        report = {
            "run": str(run_dir),
            "pairs_dir": trained.pairs,
            "method": index.method,
            "data_fingerprint": index.data_fingerprint,
            "reference": {
                **endpoints.named,
                "count": len(reference),
                "sha256": hashlib.sha256(np.ascontiguousarray(reference.numpy()).data).hexdigest(),
            },
            **result,
            "made_with": made_with(),
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(trained.run.path / "samples.npz", buffer.getvalue())
        write_json(trained.run.path / "evaluation.json", report)
    if failed := report.get("failed"):
        reasons = "; ".join(f"{row['solver']}: {row['reason']}" for row in failed)
        raise JobError(f"run {str(run_dir)!r}: {reasons}; what the other solvers gave is in evaluation.json")
    return report


def _shape(config: EvaluateConfig) -> WorkerShape:
    """Choose the tasks that draw, and start Ray unless this process draws."""
    asked = TrainClusterConfig(workers=config.workers)
    if config.workers == 0:
        return own_shape(asked)
    connect()
    try:
        return worker_shape(asked)
    except InputError as error:
        raise InputError(str(error).removeprefix("cluster.")) from error


def _measured(work: EvaluationWork, shape: WorkerShape) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute the figures for evaluation.json and the arrays for samples.npz by tasks of a shape."""
    start, config, real = time.perf_counter(), work.config, work.endpoints.end
    assert isinstance(shape.workers, int)
    shares = min(max(1, shape.workers), len(batches_of(config.samples, config.batch)))
    tasks = Tasks(shape) if shape.workers else Here()
    given = tasks.put(work)
    principal = tasks.call(fit_principal, given)
    references = [
        tasks.call(measure_share, given, principal, number, shares, samples=True, results=2) for number in range(shares)
    ]
    drawn = tasks.get([of_share for of_share, _ in references])
    names, reasons = dict[str, tuple[str, int | None]](), dict[str, str]()
    for solver, steps in solvers(config, work.trained.config):
        name = solver_name(solver, steps)
        if found := [part[name].failed for part in drawn if part[name].failed is not None]:
            reasons[name] = found[0]
        else:
            names[name] = solver, steps
    work.begin("Frechet distances and curvature")
    features = [of_share for _, of_share in references]
    distances = tasks.call(measure_distances, list(names), config.samples, config.seed, *features)
    shown = tasks.call(measure_shown, given, not reasons, samples=True)
    (width, distance, floor), (figures, arrays) = tasks.get([distances, shown])
    frechet = []
    for name, (solver, steps) in names.items():
        if isinstance(distance[name], str):
            reasons[name] = distance[name]
            continue
        evaluations = sum(part[name].evaluations for part in drawn)
        frechet.append({"solver": solver, "nfe": evaluations / config.samples, "fd": distance[name]})
        arrays[f"{solver}{steps or ''}"] = torch.cat([part[name].shown for part in drawn])[:SHOWN].numpy()
    failed = [{"solver": name, "reason": reason} for name, reason in reasons.items()]
    return {
        "samples": config.samples,
        "seed": config.seed,
        "guidance": config.guidance,
        "batch": config.batch,
        "rtol": config.rtol,
        "atol": config.atol,
        "features": f"{width} principal components of {len(real.x)} flattened data"
        if work.network is None
        else f"{width} outputs of {work.network} for {len(real.x)} images",
        "frechet": frechet,
        "floor": floor,
        **({"failed": failed} if failed else {}),
        **figures,
        "seconds": time.perf_counter() - start,
    }, {"real": real.x[:SHOWN].numpy(), **arrays}


def measure_shown(work: EvaluationWork, steady: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute what few samples give: the curvature and, if no solver failed, trajectories and time points.

    Returns figures for evaluation.json and arrays for samples.npz.
    """
    device = given_device(work.config)
    sampler, arrays = work.sampler(device), dict[str, Any]()
    curvature, distance = sampler.straightness()
    times = torch.linspace(0, 1, len(curvature)).tolist()
    figures: dict[str, Any] = {
        "curvature": integrate_unit_interval(curvature),
        "curvature_by_t": {"t": times, "value": curvature.tolist()},
        "distance_by_t": {"t": times, "value": distance.sqrt().tolist()},
    }
    if steady and (drawn := trajectories(sampler, work.endpoints.end.x)) is not None:
        arrays["trajectories"], arrays["predictions"] = drawn
    if steady and work.endpoints.points:
        given = (work.trained, work.config, work.endpoints, device)
        figures["time_points"], arrays["timepoints"] = time_points.measure_time_points(*given)
    return figures, arrays


def trajectories(sampler: Sampler, real: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
    """Compute sample trajectories, as images [k, times, C, H, W] or points [k, times, 2], and the ends predicted there.

    For data in the plane the points are the coordinates; for other data they are the coordinates on the first two
    principal directions of the data. Data with one coordinate have no such picture: the result is None.
    """
    shape = sampler.trained.shape
    if pictures.kind(shape) == "image":
        states, predicted = sampler.trajectories(*FILM)
        return states.numpy(), predicted.numpy()
    states, predicted = sampler.trajectories(SHOWN, CURVATURE_STEPS + 1)
    if pictures.kind(shape) == "plane":
        return states.numpy(), predicted.numpy()
    principal = Principal.fit(real, 2)
    if principal.directions.shape[1] < 2:
        return None

    def on_plane(points: Tensor) -> np.ndarray:
        return principal(points.flatten(0, 1)).unflatten(0, points.shape[:2]).float().numpy()

    return on_plane(states), on_plane(predicted)
