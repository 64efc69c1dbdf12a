"""How many train workers of which size a cluster holds."""

from dataclasses import dataclass

import ray

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.cluster.shapes import takes_gpus
from flowpairs.pipeline.config import ClusterConfig
from flowpairs.training.config import TrainClusterConfig


@dataclass(frozen=True)
class WorkerShape:
    """How many workers of which size; of an elastic job, between the two numbers."""

    workers: int | tuple[int, int]
    cpus: int
    gpus: int


def worker_shape(config: TrainClusterConfig, beside: ClusterConfig | None = None) -> WorkerShape:
    """Decide on workers from the live nodes; the cores of a node are shared out among the workers that it can hold.

    Args:
        config: what is asked for.
        beside: of a coupling job that runs at the same time. Half of the GPUs are left to it where both take GPUs, or
            the number that is asked for; half of every node's cores, or half of the one-core nodes, where they do not.

    Raises:
        InputError: the cluster cannot hold the workers that the configuration asks for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = (1 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0) if config.gpus == "auto" else config.gpus
    able = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes if node.get("CPU", 0) >= 1]
    left, half = 0, False
    if beside is not None:
        able, left = _shared(able, beside, gpus > 0)
        half = beside.actors == "auto"
    room = sum(min(cpu, gpu) if gpus else cpu for cpu, gpu in able)
    auto = room if gpus else len(able)
    auto = auto // 2 if left and half else auto - left
    wanted = auto if config.workers == "auto" else config.workers
    workers, most = (wanted, wanted) if isinstance(wanted, int) else wanted
    if not 1 <= workers <= room - left:
        besides = f" beside {left} for couplings" if left else " beside couplings" if beside else ""
        raise InputError(
            f"cluster.workers={config.workers}, cluster.gpus={config.gpus}: only {max(0, room - left)} such workers "
            f"fit{besides} on nodes of (CPUs, GPUs) {able}; lower them or give auto"
        )

    def fit(cpus_each: int) -> int:
        return sum(min(cpu // cpus_each, gpu) if gpus else cpu // cpus_each for cpu, gpu in able)

    held = room if left else min(most, room)  # every GPU that couplings take keeps as many cores
    cpus = max(each for each in range(1, max(cpu for cpu, _ in able) + 1) if fit(each) >= held)
    return WorkerShape(wanted, cpus, gpus)


def _shared(able: list[tuple[int, int]], beside: ClusterConfig, gpus: bool) -> tuple[list[tuple[int, int]], int]:
    """Where workers may be beside couplings: CPUs and GPUs of nodes, and how many workers' places to leave free."""
    if gpus and takes_gpus(beside):
        return able, beside.actors_per_block if beside.actors == "auto" else beside.actors
    alone = all(cpu == 1 for cpu, _ in able)
    return [(cpu // 2 or cpu, gpu) for cpu, gpu in able], max(1, len(able) // 2) if alone else 0
