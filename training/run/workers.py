"""How many train workers of which size a cluster holds, alone or beside couplings."""

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.config import ClusterConfig
from flowpairs.training.config import TrainClusterConfig

Node = tuple[int, float]  # CPUs and GPUs


@dataclass(frozen=True)
class WorkerShape:
    """How many workers of which size; of an elastic job, between the two numbers."""

    workers: int | tuple[int, int]
    cpus: int
    gpus: int


def live_nodes() -> list[Node]:
    """CPUs and GPUs of every live node; Ray is running."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(found.get("CPU", 0)), found.get("GPU", 0.0)) for found in resources]


def gpus_per_actor(nodes: Sequence[Node], config: ClusterConfig) -> float:
    """GPUs that one coupling actor takes: where the config leaves it open, one on a cluster that has any."""
    if config.gpus_per_actor != "auto":
        return config.gpus_per_actor
    return 1.0 if any(gpu >= 1 for _, gpu in nodes) else 0.0


def worker_shape(config: TrainClusterConfig, beside: ClusterConfig | None = None) -> WorkerShape:
    """Decide on workers from the live nodes; see `fit_workers`."""
    return fit_workers(live_nodes(), config, beside)


def fit_workers(nodes: Sequence[Node], config: TrainClusterConfig, beside: ClusterConfig | None = None) -> WorkerShape:
    """Decide on workers; the cores of a node are shared out among the workers that it can hold.

    Args:
        nodes: of the cluster.
        config: what is asked for.
        beside: of a coupling job that runs at the same time. Half of the GPUs are left to it where both take GPUs, or
            the number that is asked for; half of every node's cores, or half of the one-core nodes, where they do not.

    Raises:
        InputError: the cluster cannot hold the workers that the configuration asks for.
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
    room = fit(least)
    auto = room if gpus else sum(cpu >= least for cpu, _ in able)
    auto = auto // 2 if left and half else auto - left
    wanted = auto if config.workers == "auto" else config.workers
    workers, most = (wanted, wanted) if isinstance(wanted, int) else wanted
    if not 1 <= workers <= room - left:
        size = "" if config.cpus == "auto" else f", cluster.cpus={config.cpus}"
        besides = f" beside {left} for couplings" if left else " beside couplings" if beside else ""
        raise InputError(
            f"cluster.workers={config.workers}, cluster.gpus={config.gpus}{size}: only {max(0, room - left)} such "
            f"workers fit{besides} on nodes of (CPUs, GPUs) {able}; lower them or give auto"
        )
    if config.cpus != "auto":
        return WorkerShape(wanted, config.cpus, gpus)
    held = room if left else min(most, room)  # every GPU that couplings take keeps as many cores
    cpus = max(each for each in range(1, max(cpu for cpu, _ in able) + 1) if fit(each) >= held)
    return WorkerShape(wanted, cpus, gpus)


def _shared(able: list[tuple[int, int]], beside: ClusterConfig, gpus: bool) -> tuple[list[tuple[int, int]], int]:
    """Where workers may be beside couplings: CPUs and GPUs of nodes, and how many workers' places to leave free.

    Args:
        able: CPUs and GPUs of the nodes that have cores.
        beside: of the couplings.
        gpus: both take GPUs.
    """
    if gpus:
        return able, beside.actors_per_block if beside.actors == "auto" else beside.actors
    alone = all(cpu == 1 for cpu, _ in able)
    return [(cpu // 2 or cpu, gpu) for cpu, gpu in able], max(1, len(able) // 2) if alone else 0
