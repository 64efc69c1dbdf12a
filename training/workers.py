"""How many train workers of which size a cluster holds."""

from dataclasses import dataclass

import ray

from pipeline.errors import InputError
from training.config import TrainClusterConfig


@dataclass(frozen=True)
class WorkerShape:
    """How many workers of which size; of an elastic job, between the two numbers."""

    workers: int | tuple[int, int]
    cpus: int
    gpus: int


def worker_shape(config: TrainClusterConfig) -> WorkerShape:
    """Decide on workers from the live nodes; the cores of a node are shared out among the workers that it can hold.

    Raises:
        InputError: the cluster cannot hold the workers that the configuration asks for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = (1 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0) if config.gpus == "auto" else config.gpus
    able = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes if node.get("CPU", 0) >= 1]
    room = sum(min(cpu, gpu) if gpus else cpu for cpu, gpu in able)
    auto = room if gpus else len(able)
    wanted = auto if config.workers == "auto" else config.workers
    workers, most = (wanted, wanted) if isinstance(wanted, int) else wanted
    if not 1 <= workers <= room:
        raise InputError(
            f"cluster.workers={config.workers}, cluster.gpus={config.gpus}: only {room} such workers fit on nodes of "
            f"(CPUs, GPUs) {able}; lower them or give auto"
        )

    def fit(cpus_each: int) -> int:
        return sum(min(cpu // cpus_each, gpu) if gpus else cpu // cpus_each for cpu, gpu in able)

    workers = min(most, room)
    cpus = max(each for each in range(1, max(cpu for cpu, _ in able) + 1) if fit(each) >= workers)
    return WorkerShape(wanted, cpus, gpus)
