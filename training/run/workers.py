"""The number and size of the train workers that a cluster holds, alone or alongside couplings, or of this process."""

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import ClusterConfig
from flowpairs.training.config import TrainClusterConfig

Node = tuple[int, float]  # CPUs and GPUs of a node, a worker or an actor


@dataclass(frozen=True)
class WorkerShape:
    """The number of workers, or the range of it for an elastic job, and the CPUs and GPUs of each.

    0 workers: this process alone, without Ray.
    """

    workers: int | tuple[int, int]
    cpus: int
    gpus: int


def live_nodes() -> list[Node]:
    """List the CPUs and GPUs of every live node; Ray must be running."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(found.get("CPU", 0)), found.get("GPU", 0.0)) for found in resources]


def gpus_per_actor(nodes: Sequence[Node], config: ClusterConfig) -> float:
    """Return the GPUs of one coupling actor; for `auto`, 1 if the cluster has any GPU and else 0."""
    if config.gpus_per_actor != "auto":
        return config.gpus_per_actor
    return 1.0 if any(gpu >= 1 for _, gpu in nodes) else 0.0


def worker_shape(config: TrainClusterConfig, beside: ClusterConfig | None = None) -> WorkerShape:
    """Choose the workers for the live nodes; see `fit_workers`."""
    return fit_workers(live_nodes(), config, beside)


def own_shape(config: TrainClusterConfig) -> WorkerShape:
    """Build the shape of this process: torch's threads or those asked for, and a GPU where torch sees one.

    Raises:
        InputError: a GPU is asked for, and torch sees none.
    """
    import torch

    cpus = torch.get_num_threads() if config.cpus == "auto" else config.cpus
    seen = int(torch.cuda.is_available())
    if config.gpus == 1 and not seen:
        raise InputError("cluster.gpus=1: torch sees no CUDA device on this machine; give 0 or auto")
    return WorkerShape(0, cpus, seen if config.gpus == "auto" else config.gpus)


def fit_workers(nodes: Sequence[Node], config: TrainClusterConfig, beside: ClusterConfig | None = None) -> WorkerShape:
    """Choose the workers; the cores of a node are divided among the workers that it can hold.

    Args:
        nodes: the CPUs and GPUs of the nodes of the cluster.
        config: the request for workers.
        beside: the configuration of a coupling job that runs at the same time; None: no such job. If both jobs take
            GPUs, the coupling job keeps half of the GPUs, or as many as it requests; otherwise it keeps half of every
            node's cores, or half of the nodes if all have one core.

    Raises:
        InputError: the cluster cannot hold the workers that the configuration requests.
    """
    gpus = (1 if any(gpu >= 1 for _, gpu in nodes) else 0) if config.gpus == "auto" else config.gpus
    able = [(cpu, int(gpu)) for cpu, gpu in nodes if cpu >= 1]
    left, half = 0, False
    if beside is not None:
        able, left = _shared(able, beside, gpus > 0 and gpus_per_actor(nodes, beside) > 0)
        half = beside.actors == "auto"

    def fit(cpus_each: int) -> int:
        return sum(min(cpu // cpus_each, gpu) if gpus else cpu // cpus_each for cpu, gpu in able)

    least = 1 if config.cpus == "auto" else config.cpus
    fitting = fit(least)
    auto = fitting if gpus else sum(cpu >= least for cpu, _ in able)
    auto = auto // 2 if left and half else auto - left
    wanted = auto if config.workers == "auto" else config.workers
    workers, most = (wanted, wanted) if isinstance(wanted, int) else wanted
    if not 1 <= workers <= fitting - left:
        size = "" if config.cpus == "auto" else f", cluster.cpus={config.cpus}"
        besides = f" beside {left} for couplings" if left else " beside couplings" if beside else ""
        raise InputError(
            f"cluster.workers={config.workers}, cluster.gpus={config.gpus}{size}: only {max(0, fitting - left)} such "
            f"workers fit{besides} on nodes of (CPUs, GPUs) {able}; lower them or give auto"
        )
    if config.cpus != "auto":
        return WorkerShape(wanted, config.cpus, gpus)
    held = fitting if left else min(most, fitting)  # couplings keep as many cores per GPU
    cpus = max(each for each in range(1, max(cpu for cpu, _ in able) + 1) if fit(each) >= held)
    return WorkerShape(wanted, cpus, gpus)


def room(nodes: Sequence[Node], shape: WorkerShape) -> int:
    """Count the workers of a shape that nodes can hold."""
    held = [(cpu // shape.cpus, int(gpu) // shape.gpus if shape.gpus else cpu) for cpu, gpu in nodes]
    return sum(map(min, held))


def _shared(able: list[tuple[int, int]], beside: ClusterConfig, gpus: bool) -> tuple[list[tuple[int, int]], int]:
    """Compute what couplings leave to the workers: CPUs and GPUs of nodes, and how many workers to leave out.

    Args:
        able: the CPUs and GPUs of the nodes that have cores.
        beside: the configuration of the coupling job.
        gpus: whether both jobs take GPUs.
    """
    if gpus:
        return able, beside.actors_per_block if beside.actors == "auto" else beside.actors
    alone = all(cpu == 1 for cpu, _ in able)
    return [(cpu // 2 or cpu, gpu) for cpu, gpu in able], max(1, len(able) // 2) if alone else 0
